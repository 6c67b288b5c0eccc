"""Frequency of running checks: as the user requests, or limited by their cost."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable

VARIABLE = "PLUMB_CHECK"
COST_SHARE = 0.005
"""Largest share of a run's time for checks, without the first ones."""
FIRST_BATCHES = 2


def asked_rate() -> float | None:
    """Return the share of batches that the user wants checked, None if there is no such request.

    Raises ValueError, with one line, if the value is no share.
    """
    text = os.environ.get(VARIABLE, "").strip()
    return parse_rate(text) if text else None


def parse_rate(text: str) -> float:
    """Return a share from 0 to 1. Raises ValueError, in one line."""
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"{text!r} is no share of batches to check: give a number from 0 (none) to 1 (all)")
    return rate


_said: set[str] = set()


def asked_rate_or_default() -> float | None:
    """Return `asked_rate`; print one line for an invalid value, only once, and return None."""
    try:
        return asked_rate()
    except ValueError as error:
        if VARIABLE not in _said:
            _said.add(VARIABLE)
            print(f"plumb: {VARIABLE}: {error}; it is not heeded", file=sys.stderr)
        return None


class CheckTimes:
    """Schedule of the checks of one loader's batches.

    The first batches on a configuration are checked, and the first of its second epoch, which is the first that a store
    can provide. Afterwards a share `rate` of the batches is checked; if `rate` is None, the next check waits until
    checks take no more than `COST_SHARE` of the time.
    """

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._rate = rate
        self._clock = clock
        self._batches = 0
        self._not_before = 0.0
        self.configuration_begins()

    def configuration_begins(self) -> None:
        """Start over, because the next batches are read with another configuration."""
        self._first_left = FIRST_BATCHES
        self._owes_an_epoch = True

    def check_next(self) -> None:
        """Check the next requested batch in place of an undecided one."""
        self._first_left = max(1, self._first_left)

    def epoch_begins(self) -> None:
        """Start a new epoch; marked batches of the last one that did not return never will."""
        if self._not_before == math.inf:
            self._not_before = self._clock()
        if self._owes_an_epoch and self._first_left < FIRST_BATCHES:
            self._owes_an_epoch = False
            self._first_left = max(1, self._first_left)

    def wants(self) -> bool:
        """Return whether the batch that is requested now should be checked."""
        is_first = self._first_left > 0
        self._first_left -= is_first
        if self._rate is None:
            return is_first or self._clock() >= self._not_before
        before, self._batches = self._batches, self._batches + 1
        return (is_first and self._rate > 0) or int(self._batches * self._rate) > int(before * self._rate)

    def begun(self) -> None:
        """Record that a batch was marked, so that the next check waits for this one's cost."""
        self._not_before = math.inf

    def spent(self, seconds: float) -> None:
        """Record the seconds that a check took."""
        self._not_before = self._clock() + seconds / COST_SHARE
