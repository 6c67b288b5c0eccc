"""What the host allows: `Limits.detect()` reads it, each limit with the place where it was read.

files, mounts, cgroups, slurm, ranks -> cpus, memory, processes, disks, gpus -> limits, machine -> advice
"""

from plumb.host.gpus import Gpu
from plumb.host.limits import Limits

__all__ = ["Gpu", "Limits"]
