"""What a process keeps for itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def private_bytes(pid: int) -> float:
    """The bytes of pages that belong to `pid` alone; 0.0 where the system does not tell.

    Resident size would count torch's shared pages once for every worker, two to six times too much.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    fields = (line.split() for line in lines)
    return sum(float(field[1]) * 1024 for field in fields if field[0] in ("Private_Clean:", "Private_Dirty:"))


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU seconds, user and system, that living processes have burnt so far."""
    import psutil

    total = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total
