"""Readings -> what to measure once more, and what to choose."""

from __future__ import annotations

from collections.abc import Sequence

from plumb.model import operational, planner
from plumb.model.situation import Situation
from plumb.search.ledger import Reading, while_running

# Readings of single runs that differ by less than this say nothing of which is better (section 6 of the design).
NOISE = 0.10
# Where the loop waits for less than this share of its time, no configuration can gain what could be measured.
NOTHING_TO_GAIN = 0.03
# No host becomes so many times as fast between two readings.
_BEYOND_DRIFT = 3.0
# Rates closer than this are the same to us: the cheaper configuration is chosen, and a faster step is not chased.
EQUAL = 0.02
# One that is slower by no more than this, and whose interval reaches up to the best one's rate, may be as fast.
_HARDLY_LESS = 0.03
OVERTIME_SECONDS = 5.0
"""What would take so long after all should be over is not begun, and not waited for."""


def finalists(situation: Situation, own: Reading, others: Sequence[Reading]) -> list[Reading]:
    """The user's configuration; of those that promise more, the best, and the cheapest that may be as good.

    Where none was measured to be faster, those count that were slower by no more than noise, and should be faster by
    more, as the model sees it.
    """
    promising = [reading for reading in others if reading.loop_rate > own.loop_rate] or [
        reading
        for reading in others
        if reading.loop_rate > own.loop_rate * (1 - NOISE)
        and operational.expected_rate(situation, reading.config) > own.loop_rate * (1 + NOISE)
    ]
    if not promising:
        return [own]
    best = max(promising, key=lambda reading: reading.loop_rate)
    # What runs alike within an epoch is known from the same run: there is no noise between them.
    alike = _alike(promising, best)
    best = _cheapest(alike, best.loop_rate * (1 - EQUAL))
    others = [reading for reading in promising if reading not in alike]
    cheapest = _cheapest([best, *others], best.loop_rate * (1 - NOISE))
    return [own, best] if cheapest is best else [own, best, cheapest]


def winner(finals: Sequence[Reading]) -> Reading:
    """Of the readings that are equal to the best, or hardly less and not told apart from it, the cheapest one."""
    best = max(finals, key=lambda reading: reading.loop_rate)
    return _cheapest(
        [reading for reading in finals if _may_be_equal(reading, best)], best.loop_rate * (1 - _HARDLY_LESS)
    )


def _may_be_equal(reading: Reading, best: Reading) -> bool:
    if reading.loop_rate >= best.loop_rate * (1 - EQUAL) or reading.loader is None or best.loader is None:
        return True
    return reading.loader.interval[1] >= best.loader.samples_per_second


def are_told_apart(intervals: Sequence[tuple[float, float]]) -> bool:
    """Whether it is known which of some rates is the highest, or that all are equal to it."""
    *others, best = sorted(intervals, key=sum)
    are_equal = min(low for low, _ in intervals) >= max(high for _, high in intervals) * (1 - EQUAL)
    return are_equal or all(high < best[0] for _, high in others)


def known_without_turns(finals: Sequence[Reading], late_seconds: float) -> list[Reading] | None:
    """The finalists that need no turns, which would end so late; None where turns are to decide.

    What runs alike within an epoch is known from the same run, and no drift makes one many times as fast as another.
    Of the rest nothing is known without turns, and those that would end long after all should be over are not begun.
    """
    alike = _alike(finals, finals[0])
    if len(alike) == len(finals) or (late_seconds > 0 and is_beyond_drift(finals)):
        return list(finals)
    return alike if late_seconds > OVERTIME_SECONDS else None


def is_beyond_drift(finals: Sequence[Reading]) -> bool:
    """Whether the best is so much faster than the user's configuration, the first, that no drift of the host did it."""
    own, *others = (reading.loader for reading in finals)
    return own is not None and any(
        other is not None and other.interval[0] > _BEYOND_DRIFT * own.interval[1] for other in others
    )


def is_better(situation: Situation, reading: Reading, own: Reading) -> bool:
    """Whether the whole interval of `reading` lies above that of the user's configuration, in the loop."""
    if reading.loader is None or own.loader is None:
        return False
    low = operational.loop_rate(situation, reading.config, reading.loader.interval[0])
    return low > operational.loop_rate(situation, own.config, own.loader.interval[1])


def _alike(readings: Sequence[Reading], one: Reading) -> list[Reading]:
    """Those that run as `one` does within an epoch."""
    return [reading for reading in readings if while_running(reading.config) == while_running(one.config)]


def _cheapest(readings: Sequence[Reading], at_least: float) -> Reading:
    good = [reading for reading in readings if reading.loop_rate >= at_least]
    return min(good, key=lambda reading: planner.cost_order(reading.config))
