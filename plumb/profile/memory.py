"""What processes keep for themselves, and what a trial takes of the host."""

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

from plumb.host.files import Host, first_whole
from plumb.host.memory import held_bytes
from plumb.runtime.allocator import give_back_what_is_free

_SHM = "/dev/shm"
# Of a long list, so many elements are looked at, and never more objects than this.
_ELEMENTS, _OBJECTS = 256, 50_000
_PAGE_BYTES = 4096
# What proc(5) says: writing this sets the process' peak of resident pages to what is resident now.
_CLEAR_REFS, _RESET_PEAK = Path("/proc/self/clear_refs"), "5"
_CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_CONTAINERS = (list, tuple, dict, set, frozenset)


@dataclass(frozen=True)
class Pages:
    """A process' pages, in bytes: those that are its own, and those of its parent that writing would make its own."""

    private_bytes: float
    shared_bytes: float


def pages(pid: int) -> Pages:
    """The pages of `pid`; none where the system does not tell.

    Resident size would count torch's shared pages once for every worker, two to six times too much.
    """
    own = sum(_rollup(pid, name) for name in ("Private_Clean", "Private_Dirty"))
    return Pages(own, max(0.0, _rollup(pid, "Anonymous") - _rollup(pid, "Private_Dirty")))


def counted_bytes(root: object) -> float:
    """About how many bytes hold the reference counts of `root` and all that it refers to, code left out.

    Using an object writes to its count. Long containers are told from a part of their elements, and of a block without
    references, such as an array's values, only the first page counts.
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
    """What this process and all that it has started hold, as limits count it: pages of files are nobody's."""
    held = held_bytes(Host())
    if held:
        return float(held)
    import psutil

    return float(psutil.Process().memory_info().rss)


class Grown:
    """By how much this process' own pages have grown at the most since this was made, within calls too.

    The kernel keeps the peak of all pages that are mapped; those of files are taken off as they are at the end. Making
    this sets that peak back. Where it can't be, only what is held at the time of asking is told. What was freed before
    is given back to the kernel first: a forked process that takes it again makes the pages its own.
    """

    def __init__(self) -> None:
        give_back_what_is_free()
        self._before = _kept("RssAnon")
        try:
            _CLEAR_REFS.write_text(_RESET_PEAK)
            self._has_peak = True
        except OSError:
            self._has_peak = False

    def bytes(self) -> float:
        """The growth so far; never negative."""
        most = _kept("RssAnon")
        if self._has_peak:
            most = max(most, _kept("VmHWM") - _kept("RssFile") - _kept("RssShmem"))
        return max(0.0, most - self._before)


class Taken:
    """What loaders take of the host's memory from now on: pages of this process and its workers, and shared memory."""

    def __init__(self) -> None:
        self._before = _in_use()

    def bytes(self) -> float:
        """The bytes that are in use beyond those at the beginning."""
        return max(0.0, _in_use() - self._before)


def _in_use() -> float:
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid is not None)]
    # Batches on their way are held by open files alone, and mapped by nobody: the file system knows them.
    try:
        status = os.statvfs(_SHM)
        shared = (status.f_blocks - status.f_bfree) * status.f_frsize
    except OSError:
        shared = 0
    return sum(_rollup(pid, "Pss_Anon") for pid in pids) + shared


def _rollup(pid: int, name: str) -> float:
    return 1024.0 * (first_whole(Host().pairs(f"/proc/{pid}/smaps_rollup").get(name)) or 0)


def _kept(name: str) -> float:
    return 1024.0 * (first_whole(Host().pairs("/proc/self/status").get(name)) or 0)


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU seconds, user and system, that living processes have burnt so far."""
    return sum(map(_cpu_seconds_of, pids))


def _cpu_seconds_of(pid: int) -> float:
    """To the nanosecond where the system has a clock of the process; elsewhere only every hundredth second counts."""
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
