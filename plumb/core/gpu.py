"""A GPU, and a reading of what it does: plain data, as a plan keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG partition of a GPU. Values that the driver doesn't give are None.

    The PCIe generation in use may be low because the GPU is idle; this doesn't explain a low width (lanes).
    """

    name: str
    uuid: str | None
    mig: bool
    memory_bytes: int | None
    memory_free_bytes: int | None
    pcie_generation: int | None
    pcie_generation_most: int | None
    pcie_width: int | None
    pcie_width_most: int | None


@dataclass(frozen=True)
class GpuReading:
    """One GPU, or one MIG partition, at one moment. A figure that the driver doesn't give is None, with a reason.

    `utilization_share` is the share (0 to 1) of the driver's last sample period in which a kernel ran. PCIe rates are
    those of the whole board; `received` is the traffic from the host. `partitions` are the board's, if it has any.
    `reasons` maps the missing figures to why they are missing.
    """

    name: str | None
    uuid: str | None
    utilization_share: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    pcie_received_bytes_per_second: float | None
    pcie_sent_bytes_per_second: float | None
    partitions: tuple[Gpu, ...] | None
    reasons: Mapping[str, str]
