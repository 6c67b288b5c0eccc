"""Limits of processes, threads and open files: this process's resource limits and the control groups' pids limit."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from plumb.host.cgroups import levels
from plumb.host.host_files import HostFiles
from plumb.host.limit_reading import LimitReading, smallest
from plumb.host.local_ranks import Ranks


def process_limit(host: HostFiles, ranks: Ranks) -> LimitReading:
    """Return how many processes and threads, counted alike, this rank may still start."""
    share = ranks.share(smallest([*_user_readings(host), *_group_readings(host)]))
    return LimitReading(share.value // 1, share.source)


def open_file_limits() -> tuple[LimitReading, float]:
    """Return the files that one process may hold open, and the number to which it may raise that without privileges."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    return LimitReading(_finite(soft), f"ulimit -n: the hard limit is {most}"), _finite(hard)


def _user_readings(host: HostFiles) -> Iterator[LimitReading]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft == resource.RLIM_INFINITY:
        return
    used = sum(process.threads for process in host.processes() if process.user == os.getuid())
    yield LimitReading(max(0, soft - used), f"ulimit -u: {soft:,}, of which this user has {used:,}")


def _group_readings(host: HostFiles) -> Iterator[LimitReading]:
    for level in levels(host, "pids"):
        most = host.number(f"{level.folder}/pids.max")
        used = host.number(f"{level.folder}/pids.current") or 0
        if most is not None and most >= 0:
            source = f"cgroup v{level.version} pids limit {level.name}: {most:,}, of which {used:,} in use"
            yield LimitReading(max(0, most - used), source)


def _finite(limit: int) -> float:
    return float("inf") if limit == resource.RLIM_INFINITY else limit
