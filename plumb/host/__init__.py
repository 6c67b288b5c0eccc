"""Limits of the host: `Limits.detect()` reads each limit and the place where it was read.

host_files -> mounts -> cgroups, slurm, local_ranks, affinity
-> cpu_limit, memory_limit, process_limits, disk_limit, gpus -> limits
limits, machine -> advice -> describe
"""

from plumb.core.gpu import Gpu
from plumb.host.advice import advice
from plumb.host.describe import describe
from plumb.host.limits import Limits
from plumb.host.machine import Machine

__all__ = ["Gpu", "Limits", "Machine", "advice", "describe"]
