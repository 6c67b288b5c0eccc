"""How often batches are made a second time and compared: by what the user asks for, or by what checks cost."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable

VARIABLE = "PLUMB_CHECK"
COST_SHARE = 0.005
"""Most of a run's time that checks may take, except the first ones."""
FIRST_BATCHES = 2


def asked_rate() -> float | None:
    """Return the share of batches that the user wants checked, None where they leave it to plumb.

    Raises ValueError, in one line, for what is no such share.
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
    """Return the same; what can't be read is said in a line, once, and left to plumb."""
    try:
        return asked_rate()
    except ValueError as error:
        if VARIABLE not in _said:
            _said.add(VARIABLE)
            print(f"plumb: {VARIABLE}: {error}; it is not heeded", file=sys.stderr)
        return None


class CheckTimes:
    """Says which batches of one loader are checked.

    The first batches on a configuration are, and the first of its second epoch, which is the first that a store gives.
    After these, a share `rate` of the batches is; without one, the next check waits until the time since the last is so
    long that checks cost `COST_SHARE` of it.
    """

    def __init__(self, rate: float | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._rate = rate
        self._clock = clock
        self._batches = 0
        self._not_before = 0.0
        self.configuration_begins()

    def configuration_begins(self) -> None:
        """Take note that the batches to come are read in another way than before."""
        self._first_left = FIRST_BATCHES
        self._owes_an_epoch = True

    def check_next(self) -> None:
        """Check the next batch that is asked for, in place of one that told nothing."""
        self._first_left = max(1, self._first_left)

    def epoch_begins(self) -> None:
        """Take note of a new epoch. What was marked in the last one, and did not come back, never will."""
        if self._not_before == math.inf:
            self._not_before = self._clock()
        if self._owes_an_epoch and self._first_left < FIRST_BATCHES:
            self._owes_an_epoch = False
            self._first_left = max(1, self._first_left)

    def wants(self) -> bool:
        """Return whether the batch that is asked for now is to be checked."""
        is_first = self._first_left > 0
        self._first_left -= is_first
        if self._rate is None:
            return is_first or self._clock() >= self._not_before
        before, self._batches = self._batches, self._batches + 1
        return (is_first and self._rate > 0) or int(self._batches * self._rate) > int(before * self._rate)

    def begun(self) -> None:
        """Take note that a batch was marked: the next waits for what its check costs."""
        self._not_before = math.inf

    def spent(self, seconds: float) -> None:
        """Take note of what a check has cost."""
        self._not_before = self._clock() + seconds / COST_SHARE
