"""Time for which a process or a thread was ready to run while others had the CPUs."""

from __future__ import annotations

import threading
from pathlib import Path

_TASKS = "/proc/self/task"


def queued_seconds(pid: int | None = None) -> float:
    """Return the run-queue seconds of a process's first thread, or of the calling thread if `pid` is None.

    They are the second figure of `/proc/<pid>/schedstat` (Documentation/scheduler/sched-stats.rst); 0 if the kernel
    doesn't report it.
    """
    return _queued(f"/proc/{pid}/schedstat" if pid is not None else f"{_TASKS}/{threading.get_native_id()}/schedstat")


def queued_seconds_of_threads() -> float:
    """Return how long the threads of this process that live now were ready to run, and others had the CPUs."""
    return sum(map(_queued, Path(_TASKS).glob("*/schedstat")))


def _queued(path: str | Path) -> float:
    try:
        return int(Path(path).read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
