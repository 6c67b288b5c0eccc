"""How long a process or a thread was ready to run, and others had the CPUs."""

from __future__ import annotations

import threading
from pathlib import Path


def queued_seconds(pid: int | None = None) -> float:
    """What the kernel says of the first thread of a process, or of this very one; 0 where it does not.

    It is the second figure of `/proc/<pid>/schedstat` (Documentation/scheduler/sched-stats.rst).
    """
    path = f"/proc/{pid}/schedstat" if pid is not None else f"/proc/self/task/{threading.get_native_id()}/schedstat"
    try:
        return int(Path(path).read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
