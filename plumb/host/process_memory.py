"""Memory and CPU time of processes: their own pages, and what a trial takes of the host."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import time
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plumb.host.host_files import HostFiles, first_whole
from plumb.host.malloc import trim_free_memory
from plumb.host.memory_limit import held_bytes

_SHM = "/dev/shm"
# Number of elements visited of a long container, and of objects visited in all.
_ELEMENTS, _OBJECTS = 256, 50_000
_PAGE_BYTES = 4096
# proc(5): writing this value resets the process's peak of resident pages to what is resident now.
_CLEAR_REFS, _RESET_PEAK = Path("/proc/self/clear_refs"), "5"
_CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_CONTAINERS = (list, tuple, dict, set, frozenset)


@dataclass(frozen=True)
class Pages:
    """A process's pages, in bytes: its own, and its parent's that would become its own if it wrote to them."""

    private_bytes: float
    shared_bytes: float


def pages(pid: int) -> Pages:
    """Return the pages of `pid`; zeros if the system doesn't report them.

    Resident size would count torch's shared pages once for every worker, two to six times too much.
    """
    own = sum(_rollup(pid, name) for name in ("Private_Clean", "Private_Dirty"))
    return Pages(own, max(0.0, _rollup(pid, "Anonymous") - _rollup(pid, "Private_Dirty")))


def reference_count_bytes(root: object) -> float:
    """Return about how many bytes hold the reference counts of `root` and all that it refers to, except code.

    Using an object writes to its reference count. Long containers are estimated from some of their elements. Of a block
    without references, such as an array's values, only the first page counts.
    """
    total, seen, waiting = 0.0, {id(root)}, [(root, 1.0)]
    for _ in range(_OBJECTS):
        if not waiting:
            break
        each, weight = waiting.pop()
        size = each.__sizeof__() if isinstance(each, _CONTAINERS) else min(object.__sizeof__(each), _PAGE_BYTES)
        if isinstance(each, str):
            size = min(str.__sizeof__(each), _PAGE_BYTES)
        total += weight * size
        referents = gc.get_referents(each)
        step = max(1, len(referents) // _ELEMENTS)
        for other in referents[::step]:
            if id(other) not in seen and not isinstance(other, _CODE):
                seen.add(id(other))
                waiting.append((other, weight * step))
    return total


def script_bytes() -> float:
    """Return the bytes held by this process and its descendants, as memory limits count them (without file pages)."""
    held = held_bytes(HostFiles())
    if held:
        return float(held)
    import psutil

    return float(psutil.Process().memory_info().rss)


class MemoryGrowth:
    """Largest growth of this process's own pages since construction, including peaks within calls.

    The kernel records the peak of all mapped pages; file and shared pages are subtracted as they are at the end.
    Constructing this resets that peak. If it can't be reset, only the growth at the time of the query counts. Freed
    memory is first returned to the kernel: a forked process that reuses it makes the pages its own.
    """

    def __init__(self) -> None:
        trim_free_memory()
        self._before = _kept("RssAnon")
        try:
            _CLEAR_REFS.write_text(_RESET_PEAK)
            self._has_peak = True
        except OSError:
            self._has_peak = False

    def bytes(self) -> float:
        """Return the growth so far in bytes; never negative."""
        most = _kept("RssAnon")
        if self._has_peak:
            most = max(most, _kept("VmHWM") - _kept("RssFile") - _kept("RssShmem"))
        return max(0.0, most - self._before)


class MemoryTaken:
    """Host memory that loaders take from now on: pages of this process and its workers, and shared memory."""

    def __init__(self) -> None:
        self._before = _in_use()

    def bytes(self) -> float:
        """Return the bytes in use beyond those at construction."""
        return max(0.0, _in_use() - self._before)


def _in_use() -> float:
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid is not None)]
    # Batches in transit are held by open descriptors and mapped by no process, so only the file system counts them.
    try:
        status = os.statvfs(_SHM)
        shared = (status.f_blocks - status.f_bfree) * status.f_frsize
    except OSError:
        shared = 0
    return sum(_rollup(pid, "Pss_Anon") for pid in pids) + shared


def _rollup(pid: int, name: str) -> float:
    return 1024.0 * (first_whole(HostFiles().pairs(f"/proc/{pid}/smaps_rollup").get(name)) or 0)


def _kept(name: str) -> float:
    return 1024.0 * (first_whole(HostFiles().pairs("/proc/self/status").get(name)) or 0)


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU seconds, user and system, that living processes have used so far."""
    return sum(map(_cpu_seconds_of, pids))


def _cpu_seconds_of(pid: int) -> float:
    """Return a process's CPU seconds: to the nanosecond if the system has a clock for it, else in clock ticks."""
    clock = ctypes.c_int()
    try:
        if ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock)) == 0:
            return time.clock_gettime(clock.value)
    except (AttributeError, OSError):
        pass
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
