"""A time limit for work that only computes, which means the same on a busy host."""

from __future__ import annotations

import time

# Other processes may hold the work up, and so may memory that comes from a slow disk: nobody waits longer than this.
_WALL_TIMES = 5.0


class TimeBox:
    """Is over when this thread has computed for `seconds`, or when a multiple of that has passed by the clock."""

    def __init__(self, seconds: float) -> None:
        self._cpu_until = time.thread_time() + seconds
        self._wall_until = time.perf_counter() + _WALL_TIMES * seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.thread_time() > self._cpu_until or time.perf_counter() > self._wall_until
