"""The best configuration of torch's own arguments alone: found beside the best of all, and put to the user's loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader

from plumb.config import Config
from plumb.loop import Course, Loop
from plumb.loop_comparison import LoopComparison, compare_in_loop
from plumb.model import planner
from plumb.model.situation import Freedom, Situation
from plumb.plan import LoopGain, Measured, PlainMeasured
from plumb.search import decide
from plumb.search.ledger import Reading, while_running
from plumb.subject import Choice


def untried_plain(
    freedom: Freedom, situation: Situation, readings: Sequence[Reading], within_seconds: float
) -> Config | None:
    """Return the plain configuration that the model expects most of, where it is worth a trial of its own.

    It is not where the best reading is of a plain one, which then was chosen among all; or where the model puts it no
    higher than a plain one that was measured.

    Args:
        freedom: All that may be changed of the loader.
        situation: What the model is told.
        readings: What was measured, the user's own configuration included.
        within_seconds: How soon a trial must be steady.
    """
    best = max(readings, key=lambda reading: reading.loop_rate)
    if not best.config.needs_runtime:
        return None
    ranked = planner.rank(freedom.plainly(), situation, within_seconds).best
    plain = [reading for reading in readings if _is_measured_plain(reading)]
    known = max((reading.loop_rate for reading in plain), default=0.0)
    if not ranked or ranked[0].training_samples_per_second <= known * (1 + decide.EQUAL):
        return None
    is_measured = any(while_running(reading.config) == while_running(ranked[0].config) for reading in plain)
    return None if is_measured else ranked[0].config


def with_plain(finals: Sequence[Reading], readings: Sequence[Reading]) -> list[Reading]:
    """Return the finalists, the user's own first, and the best plain reading, where that promises more than theirs."""
    plain = [reading for reading in readings if _is_measured_plain(reading) and not reading.was_stopped]
    best = max(plain, key=lambda reading: reading.loop_rate, default=finals[0])
    is_final = any(while_running(best.config) == while_running(reading.config) for reading in finals)
    return [*finals] if is_final or best.loop_rate <= finals[0].loop_rate else [*finals, best]


def best_plain(
    situation: Situation, finals: Sequence[Reading], readings: Sequence[Reading], may_be_better: bool
) -> Reading:
    """Return the best plain reading, and the user's own, which is the first finalist, where none is known to be better.

    Args:
        situation: What the model is told.
        finals: The finalists as turns show them.
        readings: All that was measured before.
        may_be_better: Whether the user's loop will be asked, so that what may be better is enough here.
    """
    own = finals[0]
    plain = [reading for reading in finals if _is_measured_plain(reading)]
    if plain == [own]:
        plain = [own, *(reading for reading in readings if _is_measured_plain(reading) and not reading.was_stopped)]
    best = decide.winner(plain)
    is_better = decide.is_better(situation, best, own) or (may_be_better and best.loop_rate > own.loop_rate)
    return best if is_better else own


def plain_in_loop(
    loop: Loop,
    own: Iterator[Any],
    choice: Choice,
    loader_on: Callable[[Config], DataLoader[Any]],
    window_seconds: float,
    deadline: float,
    latest: float,
    batch_seconds: float,
    switch: Callable[[bool], int],
) -> Course[LoopComparison | None]:
    """Let the user's loop run on its own configuration and on the plain one by turns; None where there is no time.

    The arguments are those of `compare_in_loop`; `choice` names both configurations.
    """
    wanted = choice.plain.config
    if not loop.open or time.perf_counter() > deadline:
        return None
    candidate = wanted, lambda: loader_on(wanted)
    sides = (choice.baseline.config, own), candidate
    compared = yield from compare_in_loop(loop, *sides, window_seconds, deadline, latest, batch_seconds, switch)
    return compared if compared.ratio is not None or compared.failure else None


def settled_plain(choice: Choice, gain: LoopGain | None, compared: LoopComparison | None) -> PlainMeasured:
    """Return what the plan says of torch's own arguments alone.

    Args:
        choice: What was found; `plain` in it was measured alone.
        gain: What the loop made of the tuned configuration.
        compared: What the loop made of the plain one; None where it was not asked.
    """
    tuned, plain, baseline = choice.tuned, choice.plain, choice.baseline
    if not tuned.config.needs_runtime:
        return _plainly(tuned, gain if tuned.config != baseline.config else None)
    if compared is None:
        return _plainly(plain if plain.interval[0] > baseline.interval[1] else baseline, None)
    return _plainly(plain, compared.gain) if compared.is_taken else _plainly(baseline, None)


def _plainly(measured: Measured, gain: LoopGain | None) -> PlainMeasured:
    return PlainMeasured(measured.config, measured.samples_per_second, measured.interval, gain)


def _is_measured_plain(reading: Reading) -> bool:
    return reading.loader is not None and not reading.config.needs_runtime
