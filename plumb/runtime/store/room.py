"""Largest size of a store in memory, by the host's free memory.

A plan may be used on a smaller host, besides other jobs, or in a container with 64 MiB of shared memory. The script's
loaders need shared memory for their batches, so a store must leave them some.
"""

from __future__ import annotations

import os
import time

from plumb.core.errors import StoreError
from plumb.core.units import format_bytes
from plumb.host.headroom import Headroom, HeadroomReader

# A quarter of shared memory, and of memory, is left to other uses, but no more than this.
_LEFT_SHARE, _LEFT_AT_MOST_BYTES = 0.25, 2**30
# A smaller store has too few values to be worth its files.
_AT_LEAST_BYTES = 2**20
# Reading the control groups' free memory takes longer than storing a value.
_MEMORY_SECONDS = 1.0


def memory_budget(wanted_bytes: int) -> int:
    """Return the number of bytes that a new store in memory may take of the `wanted_bytes` of its plan.

    Raises:
        StoreError: Shared memory, or memory, has no room for a store.

    """
    rooms = HeadroomReader()
    tightest = min((room for room in (rooms.shm(), rooms.memory()) if room), key=_left_bytes, default=None)
    if tightest is None:
        return wanted_bytes
    budget = min(wanted_bytes, int(_left_bytes(tightest)))
    if budget < min(wanted_bytes, _AT_LEAST_BYTES):
        raise StoreError(f"no sample store: only {tightest} is left, which other loaders need")
    return budget


class Growth:
    """Check whether a store in memory may grow, cheap enough for each batch."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._rooms: HeadroomReader | None = None
        self._look_again = 0.0

    def why_not(self) -> str | None:
        """Return which resource is nearly used up, in one line; None if the store may grow."""
        status = os.statvfs(self._folder)
        size, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
        if free < _reserve_bytes(size):
            return f"only {format_bytes(free)} of {format_bytes(size)} of shared memory are left"
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + _MEMORY_SECONDS
            self._rooms = self._rooms or HeadroomReader()
            memory = self._rooms.memory()
            if memory is not None and memory.left < _reserve_bytes(memory.size):
                return f"only {memory} is left"
        return None


def _reserve_bytes(size: float) -> float:
    return min(_LEFT_SHARE * size, _LEFT_AT_MOST_BYTES)


def _left_bytes(room: Headroom) -> float:
    return room.left - _reserve_bytes(room.size)
