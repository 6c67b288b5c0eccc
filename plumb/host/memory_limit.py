"""Main memory and shared memory that this rank may use.

A job may use what it uses already, and what is available now. Page cache counts as available, as in the kernel's
MemAvailable, because the kernel frees it before it refuses memory. Memory of other processes does not count, although
they may free it later. Swap is never counted. Memory in use means anonymous and shared pages of this process and its
descendants: file pages, such as those of torch's libraries, are in the page cache and would count twice.

Ranks share what is available now in equal parts, and each keeps what it uses already.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from plumb.core.units import format_bytes
from plumb.host import slurm
from plumb.host.cgroups import Level, levels
from plumb.host.host_files import HostFiles, first_whole, whole
from plumb.host.limit_reading import NO_LIMIT_KNOWN, LimitReading, smallest
from plumb.host.local_ranks import Ranks

# Version 1 writes the largest number of pages for "no limit"; no host has an exbibyte.
_UNLIMITED_BYTES = 2**60


@dataclass(frozen=True)
class Pool:
    """Memory with its own limit, in bytes; `available` is None if its use can't be read."""

    limit: int
    available: int | None
    source: str


def memory_limit(host: HostFiles, ranks: Ranks) -> LimitReading:
    """Return the bytes that this rank may use in all, including those in use already."""
    own = held_bytes(host)
    return smallest(_reading(pool, own, ranks) for pool in pools(host, levels(host, "memory")))


def shm_limit(host: HostFiles, ranks: Ranks) -> LimitReading:
    """Return the bytes of /dev/shm that this rank may still use. They count as memory as well."""
    try:
        status = os.statvfs(host.path("/dev/shm"))
    except OSError:
        # Only Linux keeps shared memory in a folder, and torch needs that folder there.
        return (
            LimitReading(0, "/dev/shm is missing")
            if sys.platform == "linux"
            else LimitReading(float("inf"), NO_LIMIT_KNOWN)
        )
    size = format_bytes(status.f_blocks * status.f_frsize)
    shared = ranks.share(LimitReading(status.f_bavail * status.f_frsize, f"/dev/shm: free of {size}"))
    return LimitReading(shared.value // 1, shared.source)


def _reading(pool: Pool, own: int, ranks: Ranks) -> LimitReading:
    # If a pool's use is unknown, each rank is assumed to use as much as this one.
    available = max(0, pool.limit - own * ranks.count) if pool.available is None else pool.available
    taken = max(0, pool.limit - available - own)
    share = ranks.share(LimitReading(available, f"{pool.source}: {format_bytes(pool.limit)}"))
    source = f"{share.source}; {format_bytes(taken)} in use by others" if pool.available is not None else share.source
    return LimitReading(min(share.value // 1 + own, pool.limit), source)


def pools(host: HostFiles, groups: Iterable[Level]) -> Iterator[Pool]:
    """Yield the present memory of the host, of a SLURM job, and of each of these control groups."""
    yield from _host_pool(host)
    asked = slurm.memory_bytes(host)
    if asked is not None:
        yield Pool(int(asked.value), None, asked.source)
    for level in groups:
        yield from _group_pools(host, level)


def _host_pool(host: HostFiles) -> Iterator[Pool]:
    meminfo = host.pairs("/proc/meminfo")
    total, available = first_whole(meminfo.get("MemTotal")), first_whole(meminfo.get("MemAvailable"))
    if total is not None:
        yield Pool(total * 1024, None if available is None else available * 1024, "the host's memory")
    elif sys.platform != "linux":
        import psutil

        memory = psutil.virtual_memory()
        yield Pool(memory.total, memory.available, "the host's memory")


def _group_pools(host: HostFiles, level: Level) -> Iterator[Pool]:
    stat = host.pairs(f"{level.folder}/memory.stat")
    if level.version == 1:
        # The hierarchical limit includes the levels above those that a container sees.
        limits = {
            "memory limit": host.number(f"{level.folder}/memory.limit_in_bytes"),
            "hierarchical memory limit": whole(stat.get("hierarchical_memory_limit")),
        }
        used = host.number(f"{level.folder}/memory.usage_in_bytes")
        reclaimable = ["total_active_file", "total_inactive_file"]
    else:
        # Above memory.high a group isn't killed, but slowed down severely.
        limits = {name: host.number(f"{level.folder}/{name}") for name in ("memory.max", "memory.high")}
        used = host.number(f"{level.folder}/memory.current")
        reclaimable = ["active_file", "inactive_file", "slab_reclaimable"]
    freed = sum(whole(stat.get(name)) or 0 for name in reclaimable)
    for name, limit in limits.items():
        if limit is not None and 0 <= limit < _UNLIMITED_BYTES:
            available = None if used is None else min(limit, max(0, limit - used + freed))
            yield Pool(limit, available, f"cgroup v{level.version} {name} {level.name}")


def held_bytes(host: HostFiles) -> int:
    """Return the bytes of this process and its descendants that aren't file pages; shared pages count once."""
    pid = first_whole(host.pairs("/proc/self/status").get("Pid"))
    return 0 if pid is None else sum(_held_bytes(host, member) for member in _tree(host, pid))


def _tree(host: HostFiles, pid: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for process in host.processes():
        children.setdefault(process.parent, []).append(process.pid)
    tree, waiting = set(), [pid]
    while waiting:
        member = waiting.pop()
        if member not in tree:
            tree.add(member)
            waiting += children.get(member, [])
    return tree


def _held_bytes(host: HostFiles, pid: int) -> int:
    """Return one process's share of the pages that aren't files; if the kernel doesn't split them, all that it maps."""
    rollup = host.pairs(f"/proc/{pid}/smaps_rollup")
    proportional = [first_whole(rollup.get(name)) for name in ("Pss_Anon", "Pss_Shmem")]
    if None in proportional:
        status = host.pairs(f"/proc/{pid}/status")
        proportional = [first_whole(status.get(name)) for name in ("RssAnon", "RssShmem")]
    return 1024 * sum(kibibytes or 0 for kibibytes in proportional)
