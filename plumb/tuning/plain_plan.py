"""Best configuration of torch's own arguments alone: measured besides the best of all, and compared in the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.core.plan import LoopGain, Measured, PlainMeasured
from plumb.core.thresholds import EQUAL
from plumb.model import planner
from plumb.model.inputs import ModelInputs, SearchSpace
from plumb.tuning.loader_under_test import TuningResult
from plumb.tuning.measure.loop_comparison import LoopComparison, compare_in_loop
from plumb.tuning.measure.training_loop import LoopMeter, MeasurementCoroutine
from plumb.tuning.search import decision
from plumb.tuning.search.ledger import TrialResult, while_running


def plain_worth_trying(
    search_space: SearchSpace, inputs: ModelInputs, readings: Sequence[TrialResult], within_seconds: float
) -> Config | None:
    """Return the plain configuration that the model ranks first if it is worth a trial of its own, else None.

    It is not if the best measurement is of a plain configuration, which then won among all; or if the model ranks it no
    higher than a measured plain one.

    Args:
        search_space: Search space.
        inputs: Model inputs.
        readings: Measurements, including the user's own configuration.
        within_seconds: Time within which a trial must be steady.
    """
    best = max(readings, key=lambda reading: reading.loop_rate)
    if not best.config.needs_runtime:
        return None
    ranked = planner.rank(search_space.plainly(), inputs, within_seconds).best
    plain = [reading for reading in readings if _is_measured_plain(reading)]
    known = max((reading.loop_rate for reading in plain), default=0.0)
    if not ranked or ranked[0].training_samples_per_second <= known * (1 + EQUAL):
        return None
    is_measured = any(while_running(reading.config) == while_running(ranked[0].config) for reading in plain)
    return None if is_measured else ranked[0].config


def with_plain(finals: Sequence[TrialResult], readings: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the finalists, the user's own first, and the best plain measurement if it is faster than the user's."""
    plain = [reading for reading in readings if _is_measured_plain(reading) and not reading.was_stopped]
    best = max(plain, key=lambda reading: reading.loop_rate, default=finals[0])
    is_final = any(while_running(best.config) == while_running(reading.config) for reading in finals)
    return [*finals] if is_final or best.loop_rate <= finals[0].loop_rate else [*finals, best]


def best_plain(
    inputs: ModelInputs, finals: Sequence[TrialResult], readings: Sequence[TrialResult], may_be_better: bool
) -> TrialResult:
    """Return the best plain measurement, or the user's own (the first finalist) if none is known to be better.

    Args:
        inputs: Model inputs.
        finals: Finalists as measured interleaved.
        readings: All earlier measurements.
        may_be_better: Whether the user's loop decides afterwards, so that a configuration need not be certainly better.
    """
    own = finals[0]
    plain = [reading for reading in finals if _is_measured_plain(reading)]
    if plain == [own]:
        plain = [own, *(reading for reading in readings if _is_measured_plain(reading) and not reading.was_stopped)]
    best = decision.winner(plain)
    is_better = decision.is_better(inputs, best, own) or (may_be_better and best.loop_rate > own.loop_rate)
    return best if is_better else own


def compare_plain_in_loop(
    loop: LoopMeter,
    own: Iterator[Any],
    choice: TuningResult,
    loader_on: Callable[[Config], DataLoader[Any]],
    window_seconds: float,
    deadline: float,
    latest: float,
    batch_seconds: float,
    switch: Callable[[bool], int],
) -> MeasurementCoroutine[LoopComparison | None]:
    """Compare the own and the plain configuration in the user's loop; return None if there is no time.

    The arguments are those of `compare_in_loop`; `choice` has both configurations.
    """
    wanted = choice.plain.config
    if not loop.open or time.perf_counter() > deadline:
        return None
    candidate = wanted, lambda: loader_on(wanted)
    sides = (choice.baseline.config, own), candidate
    compared = yield from compare_in_loop(loop, *sides, window_seconds, deadline, latest, batch_seconds, switch)
    return compared if compared.ratio is not None or compared.failure else None


def plain_result(choice: TuningResult, gain: LoopGain | None, compared: LoopComparison | None) -> PlainMeasured:
    """Return the plan's result for torch's own arguments alone.

    Args:
        choice: Result of the tuning; its `plain` was measured alone.
        gain: Gain of the tuned configuration in the loop; None without one.
        compared: Comparison of the plain configuration in the loop; None without one.
    """
    tuned, plain, baseline = choice.tuned, choice.plain, choice.baseline
    if not tuned.config.needs_runtime:
        return _plainly(tuned, gain if tuned.config != baseline.config else None)
    if compared is None:
        return _plainly(plain if plain.interval[0] > baseline.interval[1] else baseline, None)
    return _plainly(plain, compared.gain) if compared.is_taken else _plainly(baseline, None)


def _plainly(measured: Measured, gain: LoopGain | None) -> PlainMeasured:
    return PlainMeasured(measured.config, measured.samples_per_second, measured.interval, gain)


def _is_measured_plain(reading: TrialResult) -> bool:
    return reading.loader is not None and not reading.config.needs_runtime
