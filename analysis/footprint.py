"""Memory of a process and of all that it started, and their number."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_EVERY_SECONDS = 0.2


@dataclass
class Footprint:
    """The most at any moment: bytes, pages that several processes share counted once, and processes."""

    bytes: float = 0.0
    processes: int = 0


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Footprint]:
    """Look at the process tree of `pid` five times a second until the context ends; not for use while timing."""
    peak, ended = Footprint(), threading.Event()

    def watch() -> None:
        while not ended.is_set():
            processes = tree(pid)
            peak.bytes = max(peak.bytes, sum(map(proportional_bytes, processes)))
            peak.processes = max(peak.processes, len(processes))
            ended.wait(_EVERY_SECONDS)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def proportional_bytes(pid: int, kind: str = "Pss") -> float:
    """Return a process's resident pages, each over the number of processes that share it; 0.0 if it is gone.

    `kind` names them as the kernel does: those of no file are "Pss_Anon".
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


def tree(pid: int) -> list[int]:
    """Return a process and all that it started, and that these started; none if it is gone."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.Error:
        return []
