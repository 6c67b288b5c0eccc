"""CPUs on which the kernel may run this process, and whether its launcher chose them for this rank alone."""

from __future__ import annotations

import os

from plumb.host.host_files import HostFiles, whole

_RANK_VARIABLES = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PMI_RANK", "SLURM_STEP_ID")


def cpus_of(host: HostFiles, pid: int | None = None) -> frozenset[int]:
    """Return the CPUs that process `pid`, or this process if None, may run on; empty if that can't be read."""
    allowed = cpu_list(host.pairs(f"/proc/{pid or 'self'}/status").get("Cpus_allowed_list", ""))
    online = cpu_list(host.text("/sys/devices/system/cpu/online") or "")
    # The affinity mask of virtual machines includes CPUs that could be plugged in later.
    return allowed & online or allowed


def usable_cpus(host: HostFiles) -> int:
    """Return the number of CPUs that this process may run on."""
    count = len(cpus_of(host))
    if count == 0:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return count


def chosen_by_launcher(host: HostFiles) -> bool:
    """Return whether each rank was given its own CPUs, as `mpirun --bind-to` and `srun --cpu-bind` do.

    The launcher is the nearest ancestor without a rank's variables. If it may use CPUs that this rank may not, it chose
    them. An ancestor whose environment can't be read belongs to another user, so it is taken for the launcher too.
    """
    parent = host.parent()
    while parent:
        variables = {entry.partition("=")[0] for entry in (host.text(f"/proc/{parent}/environ") or "").split("\0")}
        if variables.isdisjoint(_RANK_VARIABLES):
            return cpus_of(host, parent) > cpus_of(host)
        parent = host.parent(parent)
    return False


def cpu_list(text: str) -> frozenset[int]:
    """Return the CPUs in a kernel list such as `0-3,8`; empty if the list is malformed.

    >>> sorted(cpu_list("0-2,8"))
    [0, 1, 2, 8]
    """
    cpus: set[int] = set()
    for word in text.strip().split(","):
        low, _, high = word.partition("-")
        first, last = whole(low), whole(high or low)
        if first is None or last is None or last - first > 100_000:
            return frozenset()
        cpus.update(range(first, last + 1))
    return frozenset(cpus)
