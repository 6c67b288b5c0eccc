"""Time for which a process or a thread was ready to run while others had the CPUs."""

from __future__ import annotations

import threading
from pathlib import Path


def queued_seconds(pid: int | None = None) -> float:
    """Return the run-queue seconds of a process's first thread, or of the calling thread if `pid` is None.

    They are the second figure of `/proc/<pid>/schedstat` (Documentation/scheduler/sched-stats.rst); 0 if the kernel
    doesn't report it.
    """
    path = f"/proc/{pid}/schedstat" if pid is not None else f"/proc/self/task/{threading.get_native_id()}/schedstat"
    try:
        return int(Path(path).read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
