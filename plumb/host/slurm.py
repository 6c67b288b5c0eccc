"""SLURM's variables on this job, for this node."""

from __future__ import annotations

import re

from plumb.host.host_files import HostFiles, whole
from plumb.host.limit_reading import LimitReading

_COUNTED = re.compile(r"([0-9]+)(?:\(x([0-9]+)\))?")


def tasks_on_node(host: HostFiles) -> int | None:
    """Return the number of tasks that `srun` started on this node, or None outside of a step.

    A batch script outside of a step runs once, whatever number of tasks it requests. SLURM writes one count per node,
    with repeated ones folded: `4(x2),3`.
    """
    text = host.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts: list[int] = []
    for word in text.split(","):
        match = _COUNTED.fullmatch(word.strip())
        if match is None:
            return None
        counts += [int(match[1])] * min(int(match[2] or 1), 100_000)
    node = whole(host.environ.get("SLURM_NODEID", "0"))
    return counts[node] if node is not None and 0 <= node < len(counts) and counts[node] > 0 else None


def cpu_readings(host: HostFiles) -> list[LimitReading]:
    """Return the CPUs that SLURM gives to the whole job on this node."""
    readings = []
    on_node = whole(host.environ.get("SLURM_CPUS_ON_NODE"))
    if on_node is not None and on_node > 0:
        readings.append(LimitReading(on_node, f"SLURM_CPUS_ON_NODE={on_node}"))
    per_task, tasks = whole(host.environ.get("SLURM_CPUS_PER_TASK")), tasks_on_node(host)
    if per_task is not None and per_task > 0 and tasks is not None:
        readings.append(
            LimitReading(per_task * tasks, f"SLURM_CPUS_PER_TASK={per_task} for {tasks} tasks on this node")
        )
    return readings


def memory_bytes(host: HostFiles) -> LimitReading | None:
    """Return the memory that SLURM gives to the whole job on this node; SLURM counts in MiB, and 0 means all."""
    per_node = whole(host.environ.get("SLURM_MEM_PER_NODE"))
    if per_node is not None and per_node > 0:
        return LimitReading(per_node * 2**20, f"SLURM_MEM_PER_NODE={per_node}")
    per_cpu, cpus = whole(host.environ.get("SLURM_MEM_PER_CPU")), whole(host.environ.get("SLURM_CPUS_ON_NODE"))
    if per_cpu is not None and cpus is not None and per_cpu > 0 and cpus > 0:
        return LimitReading(per_cpu * cpus * 2**20, f"SLURM_MEM_PER_CPU={per_cpu} for {cpus} CPUs")
    return None
