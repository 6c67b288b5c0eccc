"""Training processes that share this host."""

from __future__ import annotations

from dataclasses import dataclass

from plumb.host.host_files import HostFiles, whole
from plumb.host.limit_reading import LimitReading
from plumb.host.slurm import tasks_on_node

_LOCAL_SIZES = (
    "LOCAL_WORLD_SIZE",  # torchrun, accelerate
    "LOCAL_SIZE",  # DeepSpeed
    "OMPI_COMM_WORLD_LOCAL_SIZE",  # Open MPI
    "MPI_LOCALNRANKS",  # MPICH, Intel MPI
    "PMI_LOCAL_SIZE",
    "MV2_COMM_WORLD_LOCAL_SIZE",  # MVAPICH
    "PALS_LOCAL_SIZE",  # HPE Cray
    "HOROVOD_LOCAL_SIZE",
)


@dataclass(frozen=True)
class Ranks:
    """Number of ranks on this host, and the variable that it was read from (empty for a single rank)."""

    count: int
    source: str

    def share(self, whole_host: LimitReading) -> LimitReading:
        """Return one rank's part of what all ranks on the host use together."""
        if self.count == 1:
            return whole_host
        source = f"{whole_host.source}; shared by {self.count} ranks ({self.source})"
        return LimitReading(whole_host.value / self.count, source)


def ranks_on_host(host: HostFiles) -> Ranks:
    """Return the largest count in the launchers' variables; 1 if there is no launcher."""
    counts = {name: whole(host.environ.get(name)) for name in _LOCAL_SIZES}
    counts["SLURM_STEP_TASKS_PER_NODE"] = tasks_on_node(host)
    if "LOCAL_RANK" in host.environ and host.environ.get("MASTER_ADDR") in ("localhost", "127.0.0.1", "::1"):
        # Lightning's launcher sets no local size; if the master is on the loopback, all ranks are on this host.
        counts["WORLD_SIZE"] = whole(host.environ.get("WORLD_SIZE"))
    count, source = max(((count or 1, name) for name, count in counts.items()), key=lambda pair: pair[0])
    return Ranks(count, source) if count > 1 else Ranks(1, "")
