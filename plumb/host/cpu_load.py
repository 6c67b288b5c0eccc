"""CPU use of other processes during a measurement, which explains lower numbers than usual."""

from __future__ import annotations

import os
import time
from typing import Any

import psutil

from plumb.host.affinity import cpus_of
from plumb.host.host_files import HostFiles


class OthersLoad:
    """CPU use of processes other than this one and its descendants, since construction.

    Only CPUs that this process may run on count; there are `usable_cpus` of them.
    """

    def __init__(self) -> None:
        self.usable_cpus = len(_usable())
        self._begun = time.perf_counter()
        self._busy = _busy_seconds()
        self._own = _own_seconds()

    def cpus(self) -> float:
        """Return the other processes' CPU seconds per second so far."""
        elapsed = time.perf_counter() - self._begun
        others = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        return max(0.0, others / elapsed) if elapsed > 0 else 0.0


def _busy_seconds() -> float:
    return sum(map(_busy_seconds_of, _usable()))


def _usable() -> list[Any]:
    """Return the times of each CPU that this process may run on."""
    each = psutil.cpu_times(percpu=True)
    allowed = cpus_of(HostFiles())
    return [times for number, times in enumerate(each) if number in allowed] or each


def _busy_seconds_of(times: Any) -> float:
    waiting = times.idle + getattr(times, "iowait", 0.0)
    # Linux includes guests' time in user time.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - waiting - guests)


def _own_seconds() -> float:
    """Return the CPU seconds of this process, of its ended children, and of its running descendants."""
    times = os.times()
    ended = times.user + times.system + times.children_user + times.children_system
    running = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            cpu = child.cpu_times()
        except psutil.Error:
            continue
        running += cpu.user + cpu.system
    return ended + running
