"""Remaining memory, shared memory and open files, read often and cheaply during a measurement."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

from plumb.core.units import format_bytes
from plumb.host.cgroups import levels
from plumb.host.host_files import HostFiles
from plumb.host.memory_limit import Pool, pools

_SHM = "/dev/shm"


@dataclass(frozen=True)
class Headroom:
    """Remainder and size of one limit, in bytes or files; `source` is the place where they were read."""

    limit: str
    left: float
    size: float
    source: str

    def __str__(self) -> str:
        if self.limit == "open files":
            return f"{self.left:.0f} of {self.size:.0f} open files ({self.source})"
        return f"{format_bytes(self.left)} of {self.limit} ({self.source}: {format_bytes(self.size)})"


class HeadroomReader:
    """Reader of the remaining memory, shared memory and open files. The control groups are located only once."""

    def __init__(self) -> None:
        self._host = HostFiles()
        self._groups = levels(self._host, "memory")

    def memory(self) -> Headroom | None:
        """Return the memory left on the host or in the tightest control group, whichever is less; None if unknown."""
        known = [pool for pool in pools(self._host, self._groups) if pool.available is not None]
        pool = min(known, key=_available, default=None)
        return None if pool is None else Headroom("memory", _available(pool), pool.limit, pool.source)

    def shm(self) -> Headroom | None:
        """Return the free space in /dev/shm, or None if it can't be read."""
        with contextlib.suppress(OSError):
            status = os.statvfs(_SHM)
            return Headroom("shared memory", status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize, _SHM)
        return None

    def open_files(self, pids: Iterable[int], most: float) -> Headroom | None:
        """Return how many of `most` files the process with the most open files may still open; None if unknown."""
        held = []
        for pid in pids:
            with contextlib.suppress(OSError):
                held.append(len(os.listdir(f"/proc/{pid}/fd")))
        return Headroom("open files", most - max(held), most, "ulimit -n") if held else None


def _available(pool: Pool) -> int:
    return pool.limit if pool.available is None else pool.available
