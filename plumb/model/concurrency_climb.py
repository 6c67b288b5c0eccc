"""The climb of a source's concurrency: how many reads to make at once next, and how many the source holds.

Reads are made by one, then by two, four, eight at once, until the source gives no more. With n reads at once that take
R seconds each, a source gives n / R per second (Little's law), so a rate that stays as it is means that reads take
longer as fast as there are more of them. Nothing is assumed of a source beyond what it was seen to give: one that is
asked for more than it holds may drop connections, and then give less than to a single reader.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

GAIN = 0.10
"""Twice as many reads at once are worth it from this gain of the rate on."""

# A rate that is lower by more than this is less; one that is lower by less is the same.
_LESS = 0.05
# A process that needs so much of a core reads no faster with more threads, however much the source would give.
_BUSY = 0.6
# Connections are tried again now and then by themselves: for so many of the reads, and so many times as often as with
# fewer reads at once, it is the number of reads that does it.
_TRIED_AGAIN, _TIMES_AS_OFTEN = 0.01, 2.0
# So much of the best rate is as good as all of it.
_ENOUGH = 0.95
# A number of reads that gave so many times what half of it did was held up by nothing: a few more may give more.
_RISING = 1.5
# Fewer reads than this aren't parted.
_LEAST_PARTED = 4


class ClimbEnd(enum.Enum):
    """Reason for the end of a climb."""

    FLAT = "no more"
    PROCESS = "no more to one process"
    LESS = "less"
    FAILED = "failed"
    TRIED_AGAIN = "tried again"
    CPU = "cpu"
    MOST = "most"
    TIME = "time"


@dataclass(frozen=True)
class ReadsAtOnce:
    """Measurements while `reads` were made at once.

    `busy_share` is the part of a core that the reading processes needed, whether they had it or stood in line for it,
    as a share of what they can use at most. `tried_again` is how many times the system sent something again for want of
    an answer, per read. `failures` counts reads that raised or did not end, for the `reason`.
    """

    reads: int
    samples_per_second: float
    busy_share: float = 0.0
    tried_again: float = 0.0
    failures: int = 0
    reason: str = ""


@dataclass(frozen=True)
class SourceCapacity:
    """Rate of a source for each number of `reads` at once that was tried, and the reason for the end of the climb.

    `good_reads` is the last number that gave more than half of it did, and `most_reads` the largest that may be used:
    the same, or the next one where that gave no less and nothing failed. The curve holds no number beyond.
    """

    reads: tuple[int, ...]
    samples_per_second: tuple[float, ...]
    good_reads: int
    most_reads: int
    end: ClimbEnd
    reason: str = ""

    @property
    def is_exhausted(self) -> bool:
        """True if the source limits the rate, rather than the readers.

        Threads of one process may share a lock, or a pool's few connections: that they read no faster says nothing of
        several processes.
        """
        return self.end in (ClimbEnd.FLAT, ClimbEnd.LESS, ClimbEnd.FAILED, ClimbEnd.TRIED_AGAIN)

    @property
    def samples_per_second_at_most(self) -> float:
        """The highest rate that was seen."""
        return max(self.samples_per_second, default=0.0)


def next_reads(seen: Sequence[ReadsAtOnce], most: int) -> int | None:
    """Return how many reads to make at once next, or None at the end of the climb.

    A number that gives no more than half of it did, or for which connections were tried again, is not believed at once:
    the half is looked at again, then the number itself, and the better reading of each counts. So a host that stands
    still for a moment ends no climb. Failures end it at once. The last look is at the middle of the two numbers between
    which the source comes to its most.

    Args:
        seen: All readings so far, in their order; the first is of the fewest reads.
        most: The largest number of reads at once that is allowed, at least 1.

    """
    if not seen:
        return 1
    wanted = _wanted(seen)
    if isinstance(wanted, int):
        top = max(one.reads for one in seen)
        if wanted <= max(most, top):
            return wanted
        return None if top >= most else most
    middle = _middle(seen, wanted)
    return middle if middle <= most and all(one.reads != middle for one in seen) else None


def capacity_of(seen: Sequence[ReadsAtOnce], most: int, reason: str = "") -> SourceCapacity:
    """Return what a climb has shown.

    Args:
        seen: All readings, in their order; at least one.
        most: The largest number of reads at once that was allowed.
        reason: Why the climb ended before its own end, if it did.

    Raises:
        ValueError: There is no reading.

    """
    if not seen:
        raise ValueError("nothing was read")
    wanted = _wanted(seen)
    top = max(one.reads for one in seen)
    if isinstance(wanted, ClimbEnd):
        end = wanted
    elif wanted > max(most, top) and top >= most and not reason:
        end = ClimbEnd.MOST
    else:
        end = ClimbEnd.TIME
    highest = _highest(seen, end)
    curve, best = [], 0.0
    for reads in sorted({one.reads for one in seen if one.reads <= highest}):
        best = max(best, _rate(seen, reads))
        curve.append((reads, best))
    failures = [one.reason for one in seen if one.reason]
    return SourceCapacity(
        tuple(reads for reads, _ in curve),
        tuple(rate for _, rate in curve),
        _good(seen),
        highest,
        end,
        reason or (failures[0] if failures else ""),
    )


def _wanted(seen: Sequence[ReadsAtOnce]) -> int | ClimbEnd:
    """Return the number of reads to look at next, whatever is allowed, or what has ended the climb."""
    climbed = _climbed(seen)
    top = climbed[-1]
    at_top = [one for one in seen if one.reads == top]
    if any(one.failures for one in seen):
        return ClimbEnd.FAILED
    if len(climbed) == 1:
        return 2 * top
    below = climbed[-2]
    at_below = [one for one in seen if one.reads == below]
    usual = _usual(seen, top)
    again = [one.tried_again >= usual for one in at_top]
    # What else happens on a host makes readings lower, and never higher.
    ratio = _best(at_top) / max(_best(at_below), 1e-9)
    if ratio >= 1.0 + GAIN and not all(again):
        return 2 * top
    if len(at_top) == 1:
        return below if seen[-1].reads == top else top
    if all(again):
        return ClimbEnd.TRIED_AGAIN
    if max(one.busy_share for one in at_top) >= _BUSY:
        return ClimbEnd.CPU
    return ClimbEnd.LESS if ratio < 1.0 - _LESS else ClimbEnd.FLAT


def _climbed(seen: Sequence[ReadsAtOnce]) -> list[int]:
    """Return the numbers of reads on the way up: each is larger than all before it."""
    climbed: list[int] = []
    for one in seen:
        if not climbed or one.reads > climbed[-1]:
            climbed.append(one.reads)
    return climbed


def _good(seen: Sequence[ReadsAtOnce]) -> int:
    """Return the largest number of reads that gave more than the number before it, with nothing amiss."""
    climbed, wanted = _climbed(seen), _wanted(seen)
    failed = [one.reads for one in seen if one.failures]
    if failed:
        return max((reads for reads in climbed if reads < min(failed)), default=0)
    is_good = isinstance(wanted, int) and wanted > climbed[-1]
    return climbed[-1] if is_good or len(climbed) == 1 else climbed[-2]


def _middle(seen: Sequence[ReadsAtOnce], end: ClimbEnd) -> int:
    """Return the middle of the two numbers of reads between which the rate comes to its most; 1 for none."""
    climbed, good = _climbed(seen), _good(seen)
    if end is ClimbEnd.FAILED or len(climbed) == 1 or any(one.reads not in climbed for one in seen):
        return 1
    if end in (ClimbEnd.LESS, ClimbEnd.TRIED_AGAIN) and _rate(seen, good) >= _RISING * _rate(seen, good // 2):
        return good + good // 2
    enough = _ENOUGH * max(_rate(seen, reads) for reads in climbed if reads <= _highest(seen, end))
    upper = next(reads for reads in climbed if _rate(seen, reads) >= enough)
    return upper - upper // 4 if upper >= _LEAST_PARTED else 1


def _highest(seen: Sequence[ReadsAtOnce], end: ClimbEnd) -> int:
    """Return the largest number of reads that gave no less than the best, with nothing amiss."""
    climbed, good = _climbed(seen), _good(seen)
    top = climbed[-1]
    if end is ClimbEnd.FLAT and _rate(seen, top) >= _rate(seen, good):
        return top
    usual = _usual(seen, top)
    return max(
        [
            good,
            *(
                one.reads
                for one in seen
                if good < one.reads < top
                and one.tried_again < usual
                and one.samples_per_second >= (1.0 + GAIN) * _rate(seen, good)
            ),
        ]
    )


def _usual(seen: Sequence[ReadsAtOnce], top: int) -> float:
    """Return how often connections are tried again, per read, where it is not for the number of reads."""
    lower = [one.tried_again for one in seen if one.reads < top]
    return max(_TRIED_AGAIN, _TIMES_AS_OFTEN * median(lower)) if lower else _TRIED_AGAIN


def _rate(seen: Sequence[ReadsAtOnce], reads: int) -> float:
    return _best([one for one in seen if one.reads == reads])


def _best(readings: Sequence[ReadsAtOnce]) -> float:
    return max((one.samples_per_second for one in readings), default=0.0)
