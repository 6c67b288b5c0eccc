"""Times at which programs of the script ran, which may change files without an audit event."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable

from plumb.journal.records import PROGRAM, QUIET, Record

# A program starts a moment after its record. So a look that finds none ends only the times of programs whose record is
# older than this.
_STARTED_SECONDS = 2.0
# Times of files come from a clock of the kernel that lags by up to a tick.
_TICK_SECONDS = 0.05


class ProgramTimes:
    """Intervals from the start of a program to the first look that found no program running, or to the end."""

    def __init__(self, found: Iterable[Record]) -> None:
        found = list(found)
        quiet = sorted(record["at"] for record in found if record["kind"] == QUIET)
        self._windows: list[tuple[float, float]] = []
        for record in sorted((record for record in found if record["kind"] == PROGRAM), key=lambda each: each["at"]):
            start, end = record["at"] - _TICK_SECONDS, math.inf
            if not record["stays"]:
                number = bisect.bisect_left(quiet, record["at"] + _STARTED_SECONDS)
                end = quiet[number] if number < len(quiet) else math.inf
            if self._windows and start <= self._windows[-1][1]:
                first, last = self._windows[-1]
                self._windows[-1] = first, max(last, end)
            else:
                self._windows.append((start, end))

    def contain(self, at: float) -> bool:
        """Return whether a program ran at the time `at`, in seconds since the epoch."""
        return any(start <= at <= end for start, end in self._windows)

    def begin_before(self, at: float) -> bool:
        """Return whether a program was started before the time `at`."""
        return bool(self._windows) and at >= self._windows[0][0]
