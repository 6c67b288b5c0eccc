"""Rules that choose the finalists and the winner among measured configurations."""

from __future__ import annotations

from collections.abc import Sequence

from plumb.core.thresholds import EQUAL, NOISE
from plumb.model import planner, resource_bounds
from plumb.model.inputs import ModelInputs
from plumb.tuning.search.ledger import TrialResult, while_running

# No host's speed drifts by this factor between two measurements.
_BEYOND_DRIFT = 3.0
# A configuration slower by at most this share may still be as fast if its interval reaches the best one's rate.
_HARDLY_LESS = 0.03
OVERTIME_SECONDS = 5.0
"""Work that would end this many seconds after the deadline is neither begun nor waited for."""


def finalists(inputs: ModelInputs, own: TrialResult, others: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the user's configuration, the best of the promising ones, and the cheapest that may be as good.

    If none was measured to be faster, configurations are promising that were slower by less than `NOISE` but that the
    model predicts to be faster by more than `NOISE`.

    Args:
        inputs: Model inputs for the predictions.
        own: Measurement of the user's configuration.
        others: Measurements of the other configurations.

    Returns:
        Up to three measurements, `own` first.
    """
    promising = [reading for reading in others if reading.loop_rate > own.loop_rate] or [
        reading
        for reading in others
        if reading.loop_rate > own.loop_rate * (1 - NOISE)
        and resource_bounds.expected_rate(inputs, reading.config) > own.loop_rate * (1 + NOISE)
    ]
    if not promising:
        return [own]
    best = max(promising, key=lambda reading: reading.loop_rate)
    # Configurations that run alike within an epoch share one measurement, so no noise lies between them.
    alike = _alike(promising, best)
    best = _cheapest(alike, best.loop_rate * (1 - EQUAL))
    others = [reading for reading in promising if reading not in alike]
    cheapest = _cheapest([best, *others], best.loop_rate * (1 - NOISE))
    return [own, best] if cheapest is best else [own, best, cheapest]


def winner(finals: Sequence[TrialResult]) -> TrialResult:
    """Return the cheapest of the measurements that equal the best one or can't be distinguished from it."""
    best = max(finals, key=lambda reading: reading.loop_rate)
    return _cheapest(
        [reading for reading in finals if _may_be_equal(reading, best)], best.loop_rate * (1 - _HARDLY_LESS)
    )


def _may_be_equal(reading: TrialResult, best: TrialResult) -> bool:
    if reading.loop_rate >= best.loop_rate * (1 - EQUAL) or reading.loader is None or best.loader is None:
        return True
    return reading.loader.interval[1] >= best.loader.samples_per_second


def are_distinguishable(intervals: Sequence[tuple[float, float]]) -> bool:
    """Return whether the intervals show which rate is the highest, or that all rates equal it."""
    *others, best = sorted(intervals, key=sum)
    are_equal = min(low for low, _ in intervals) >= max(high for _, high in intervals) * (1 - EQUAL)
    return are_equal or all(high < best[0] for _, high in others)


def ranked_without_interleaving(finals: Sequence[TrialResult], late_seconds: float) -> list[TrialResult] | None:
    """Return the finalists that can be ranked without interleaved measurement.

    Configurations that run alike within an epoch share one measurement, and no drift makes one many times as fast as
    another. Interleaved measurement is not begun if it would end long after the deadline.

    Args:
        finals: Measurements of the finalists, the user's configuration first.
        late_seconds: Seconds after the deadline at which interleaved measurement would end; negative before it.

    Returns:
        Finalists that can be ranked now, or None if they must be measured interleaved.
    """
    alike = _alike(finals, finals[0])
    if len(alike) == len(finals) or (late_seconds > 0 and is_beyond_drift(finals)):
        return list(finals)
    return alike if late_seconds > OVERTIME_SECONDS else None


def is_beyond_drift(finals: Sequence[TrialResult]) -> bool:
    """Return whether some finalist is so much faster than the first, the user's, that drift can't explain it."""
    own, *others = (reading.loader for reading in finals)
    return own is not None and any(
        other is not None and other.interval[0] > _BEYOND_DRIFT * own.interval[1] for other in others
    )


def is_better(inputs: ModelInputs, reading: TrialResult, own: TrialResult) -> bool:
    """Return whether the whole interval of `reading` lies above that of the user's configuration, in the loop."""
    if reading.loader is None or own.loader is None:
        return False
    if reading.loader.samples_per_second < own.loader.samples_per_second:
        # Only the loop shows the gain of a configuration that leaves more of the cores to the step.
        return False
    low = resource_bounds.loop_rate(inputs, reading.config, reading.loader.interval[0])
    return low > resource_bounds.loop_rate(inputs, own.config, own.loader.interval[1])


def _alike(readings: Sequence[TrialResult], one: TrialResult) -> list[TrialResult]:
    """Return the measurements of configurations that run as `one` does within an epoch."""
    return [reading for reading in readings if while_running(reading.config) == while_running(one.config)]


def _cheapest(readings: Sequence[TrialResult], at_least: float) -> TrialResult:
    good = [reading for reading in readings if reading.loop_rate >= at_least]
    return min(good, key=lambda reading: planner.cost_order(reading.config))
