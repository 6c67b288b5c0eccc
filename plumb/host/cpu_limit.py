"""CPU seconds per second from affinity, cpusets, quotas at every level, and SLURM, shared among this host's ranks."""

from __future__ import annotations

from collections.abc import Iterator

from plumb.host.affinity import chosen_by_launcher, cpu_list, usable_cpus
from plumb.host.cgroups import Level, levels
from plumb.host.host_files import HostFiles, whole
from plumb.host.limit_reading import LimitReading, smallest
from plumb.host.local_ranks import Ranks
from plumb.host.slurm import cpu_readings


def cpu_limit(host: HostFiles, ranks: Ranks) -> LimitReading:
    """Return the CPU seconds per second that this rank may use."""
    usable = usable_cpus(host)
    sets = [LimitReading(usable, f"CPU affinity: {usable} CPUs"), *_cpusets(host)]
    budgets = [*_quotas(host), *cpu_readings(host)]
    if chosen_by_launcher(host):
        # The sets are then this rank's own, and only the budgets are shared.
        return smallest([*sets, *(ranks.share(reading) for reading in budgets)])
    return smallest(ranks.share(reading) for reading in [*sets, *budgets])


def _cpusets(host: HostFiles) -> Iterator[LimitReading]:
    for level in levels(host, "cpuset"):
        effective = "cpuset.effective_cpus" if level.version == 1 else "cpuset.cpus.effective"
        allowed = (host.text(f"{level.folder}/{effective}") or host.text(f"{level.folder}/cpuset.cpus") or "").strip()
        count = len(cpu_list(allowed))
        if count > 0:
            yield LimitReading(count, f"cgroup v{level.version} cpuset {level.name}: CPUs {allowed}")


def _quotas(host: HostFiles) -> Iterator[LimitReading]:
    for level in levels(host, "cpu"):
        quota, period = _quota(host, level)
        if quota is not None and period is not None and quota > 0 and period > 0:
            source = f"cgroup v{level.version} cpu quota {level.name}: {quota}/{period}"
            yield LimitReading(quota / period, source)


def _quota(host: HostFiles, level: Level) -> tuple[int | None, int | None]:
    """Return the microseconds of CPU time per period, and the period; version 1 writes -1 for no quota."""
    if level.version == 1:
        period = host.number(f"{level.folder}/cpu.cfs_period_us")
        return host.number(f"{level.folder}/cpu.cfs_quota_us"), period
    words = (host.text(f"{level.folder}/cpu.max") or "").split()
    return (whole(words[0]), whole(words[1])) if len(words) == 2 else (None, None)
