"""Limits for work that only computes: of time, which mean the same on a busy host, and of what it sets off."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Other processes may hold the work up, and so may memory that comes from a slow disk: nobody waits longer than this.
_WALL_TIMES = 5.0


class TimeBox:
    """Is over when this thread has computed for `seconds`, or when a multiple of that has passed by the clock."""

    def __init__(self, seconds: float) -> None:
        self._cpu_until = time.thread_time() + seconds
        self._wall_until = time.perf_counter() + _WALL_TIMES * seconds

    @property
    def seconds_left(self) -> float:
        """The time that is left for computing."""
        return max(0.0, self._cpu_until - time.thread_time())

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.thread_time() > self._cpu_until or time.perf_counter() > self._wall_until


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Do what makes many small objects, and soon lets go of them, without a search for garbage in all of the process.

    In a process with a million objects, that would take longer than the work itself.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
