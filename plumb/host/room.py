"""What is left of the host right now, read often and cheaply while something runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

from plumb.host.cgroups import levels
from plumb.host.files import Host
from plumb.host.memory import Pool, pools
from plumb.units import format_bytes

_SHM = "/dev/shm"


@dataclass(frozen=True)
class Room:
    """What is left of one limit, with its whole size, in bytes or in files; `source` says where it was read."""

    limit: str
    left: float
    size: float
    source: str

    def __str__(self) -> str:
        if self.limit == "open files":
            return f"{self.left:.0f} of {self.size:.0f} open files ({self.source})"
        return f"{format_bytes(self.left)} of {self.limit} ({self.source}: {format_bytes(self.size)})"


class Rooms:
    """Reads what is left of memory, shared memory and open files. Where the control groups are is read only once."""

    def __init__(self) -> None:
        self._host = Host()
        self._groups = levels(self._host, "memory")

    def memory(self) -> Room | None:
        """The memory that is left before the host, or the tightest control group, has none; None where nobody says."""
        known = [pool for pool in pools(self._host, self._groups) if pool.available is not None]
        pool = min(known, key=_available, default=None)
        return None if pool is None else Room("memory", _available(pool), pool.limit, pool.source)

    def shm(self) -> Room | None:
        """What is free in /dev/shm."""
        with contextlib.suppress(OSError):
            status = os.statvfs(_SHM)
            return Room("shared memory", status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize, _SHM)
        return None

    def open_files(self, pids: Iterable[int], most: float) -> Room | None:
        """How many files the process that holds most of them may still open, of `most`."""
        held = []
        for pid in pids:
            with contextlib.suppress(OSError):
                held.append(len(os.listdir(f"/proc/{pid}/fd")))
        return Room("open files", most - max(held), most, "ulimit -n") if held else None


def _available(pool: Pool) -> int:
    return pool.limit if pool.available is None else pool.available
