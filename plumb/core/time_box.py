"""Limits for work that only computes: of its time, independent of the host's load, and of its side effects."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Other processes, or memory on a slow disk, may delay the work: the limit by the clock is this multiple.
_WALL_TIMES = 5.0


class TimeBox:
    """Time limit: over when this thread has computed for `seconds`, or a multiple of that has passed by the clock."""

    def __init__(self, seconds: float) -> None:
        self._cpu_until = time.thread_time() + seconds
        self._wall_until = time.perf_counter() + _WALL_TIMES * seconds

    @property
    def seconds_left(self) -> float:
        """Remaining computing time."""
        return max(0.0, self._cpu_until - time.thread_time())

    @property
    def is_over(self) -> bool:
        """True if the time is up."""
        return time.thread_time() > self._cpu_until or time.perf_counter() > self._wall_until


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Turn off garbage collection in the context, for work that makes many short-lived objects.

    In a process with a million objects, a collection would take longer than the work itself.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
