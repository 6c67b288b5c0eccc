"""Switches between threads, forced at the calls of the code that they run, so that what they do to each other shows."""

from __future__ import annotations

import concurrent.futures
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from plumb.trace.expand import PLUMB_FOLDER

PAUSES_PER_SAMPLE = 40
# Some pauses are short, others long enough for a whole prefix or suffix of another thread's. Where the other threads
# did nothing in the last pause, as at the end of a batch, the next one is short.
_SHORT_SECONDS, _LONG_SECONDS, _LONG_SHARE = 1e-4, 1e-3, 0.1
# Who comes back from a pause need not wait longer for the interpreter's lock.
_SWITCH_SECONDS = 1e-4
# Calls in here hand samples from thread to thread, and are nobody's to interleave.
_NOT_SAMPLES = (PLUMB_FOLDER, threading.__file__, os.path.dirname(concurrent.futures.__file__))


def share_of_calls(reads: Callable[[], Any], samples: int) -> float:
    """Return the share of calls to pause at for about `PAUSES_PER_SAMPLE` pauses in each of `samples` that are read."""
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += not frame.f_code.co_filename.startswith(_NOT_SAMPLES)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        reads()
    finally:
        sys.setprofile(before)
    return min(1.0, PAUSES_PER_SAMPLE * samples / max(1, calls))


@contextmanager
def interruptible(share: float) -> Iterator[Pauses]:
    """Let this thread, and those that are started inside, pause before and after a `share` of their calls.

    C's functions, waits among them, are calls as well. None pauses outside of `Pauses.drawn_from`. Profilers are put
    back.
    """
    pauses = Pauses(share)
    before, of_new_threads, interval = sys.getprofile(), threading.getprofile(), sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    threading.setprofile(pauses.at_call)
    sys.setprofile(pauses.at_call)
    try:
        yield pauses
    finally:
        sys.setprofile(before)
        threading.setprofile(of_new_threads)
        sys.setswitchinterval(interval)


class _Thread(threading.local):
    seed: int | None = None
    chance = random.Random(0)
    others_ran = True


class Pauses:
    """The pauses of some threads, in which the others go on."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._seed: int | None = None
        self._begun = self._calls = 0
        self._mine = _Thread()

    @contextmanager
    def drawn_from(self, seed: int) -> Iterator[None]:
        """Pause inside: at calls, and for times, that are drawn for each thread."""
        self._seed = seed
        try:
            yield
        finally:
            self._seed = None

    def at_call(self, frame: FrameType, event: str, argument: Any) -> None:
        """Pause, or don't. Given to `sys.setprofile`."""
        seed, mine = self._seed, self._mine
        if seed is None or frame.f_code.co_filename.startswith(_NOT_SAMPLES):
            return
        # Counts a call too few where threads are switched in here, which does no harm.
        self._calls += 1
        if mine.seed != seed:
            self._begun += 1
            mine.seed, mine.chance = seed, random.Random(1000 * seed + self._begun)
        if mine.chance.random() < self._share:
            before, is_long = self._calls, mine.others_ran and mine.chance.random() < _LONG_SHARE
            time.sleep(_LONG_SECONDS if is_long else mine.chance.random() * _SHORT_SECONDS)
            mine.others_ran = self._calls != before
