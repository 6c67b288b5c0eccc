"""Windows of a simulation for display: the activities of its workers, main process and step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plumb.core.config import Config
from plumb.model.inputs import ModelInputs
from plumb.model.simulator import ProcessSpan, SimulationParameters, consumed, spans
from plumb.model.twin import simulation_parameters

_STEPS, _STEPS_PER_WORKER, _STEPS_OF_THE_SLOWEST = 6, 2, 2
_STEPS_AT_MOST = 200


@dataclass(frozen=True)
class Timeline:
    """A window of a simulation, from `begin_seconds` after the epoch began, with all spans that overlap it."""

    config: Config
    begin_seconds: float
    end_seconds: float
    spans: tuple[ProcessSpan, ...]


def timelines(inputs: ModelInputs, configs: Sequence[Config], seed: int = 0) -> tuple[Timeline, ...]:
    """Return windows of equal length, one per configuration, from the steady state of an endless epoch.

    Each window begins when a step has just ended, and shows a few steps. Returns an empty tuple if nothing takes time.
    """
    told = [simulation_parameters(inputs, config) for config in configs]
    paces = [_seconds_per_step(each) for each in told]
    if not all(pace > 0 for pace in paces):
        return ()
    wanted = (pace * (_STEPS + _STEPS_PER_WORKER * each.num_workers) for pace, each in zip(paces, told, strict=True))
    seconds = max(min(wanted), _STEPS_OF_THE_SLOWEST * max(paces))
    seconds = min(seconds, _STEPS_AT_MOST * min(paces))
    windows = (_window(each, seconds, pace, seed) for each, pace in zip(told, paces, strict=True))
    return tuple(Timeline(config, *window) for config, window in zip(configs, windows, strict=True))


def _seconds_per_step(told: SimulationParameters) -> float:
    warm_up, steps = _warm_up(told), 100
    done = consumed(told, [1.0] * (warm_up + steps))
    return (done[-1] - done[warm_up - 1]) / steps


def _window(
    told: SimulationParameters, seconds: float, pace: float, seed: int
) -> tuple[float, float, tuple[ProcessSpan, ...]]:
    """Return the window's begin, end and spans. It starts after the initially prefetched batches are consumed."""
    warm_up = _warm_up(told)
    # Twice as many batches as equal ones would need: the drawn ones may be quicker, and the last have no successors.
    batches = 2 * (warm_up + math.ceil(seconds / pace))
    factors = np.random.default_rng(seed).choice(np.asarray(told.spread), size=batches).tolist()
    begin = consumed(told, factors)[warm_up - 1]
    end = begin + seconds
    seen = (span for span in spans(told, factors) if span.end_seconds > begin and span.begin_seconds < end)
    return begin, end, tuple(seen)


def _warm_up(told: SimulationParameters) -> int:
    return 2 * told.num_workers * told.prefetch_factor + 1
