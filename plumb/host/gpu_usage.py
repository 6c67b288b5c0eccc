"""A GPU's present state from NVML: utilization, memory, PCIe traffic and partitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plumb.core.gpu import Gpu, GpuReading
from plumb.host.gpus import gpus, partitions
from plumb.host.nvml_access import Nvml, open_nvml

KIBIBYTE = 1024
SENT, RECEIVED = 0, 1  # NVML_PCIE_UTIL_TX_BYTES, NVML_PCIE_UTIL_RX_BYTES


FIGURES = tuple(name for name in GpuReading.__dataclass_fields__ if name != "reasons")


def read_gpu(uuid: str | None, environ: Mapping[str, str]) -> GpuReading:
    """Return a reading of the GPU whose UUID ends with `uuid`; if None, of the first in CUDA_VISIBLE_DEVICES.

    Never raises: without a driver, a package or such a GPU, all figures are None with that reason.
    """
    visible, source = gpus(environ)
    named = [gpu for gpu in visible if gpu.uuid is not None and gpu.uuid.endswith(uuid or "")]
    if not named:
        return _unread(f"NVML doesn't list the GPU {uuid}" if visible else source)
    with open_nvml() as nvml:
        return _unread(nvml) if isinstance(nvml, str) else _read(nvml, named[0])


def _unread(reason: str) -> GpuReading:
    return _reading(dict.fromkeys(FIGURES, (None, reason)))


def _reading(answers: Mapping[str, tuple[Any, str | None]]) -> GpuReading:
    reasons = {name: reason for name, (_, reason) in answers.items() if reason is not None}
    return GpuReading(**{name: value for name, (value, _) in answers.items()}, reasons=reasons)


def _read(nvml: Nvml, gpu: Gpu) -> GpuReading:
    handle, reason = nvml.answer("nvmlDeviceGetHandleByUUID", gpu.uuid)
    if reason is not None:
        return _unread(reason)
    board = nvml.ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle) if gpu.mig else handle
    rates, no_rates = nvml.answer("nvmlDeviceGetUtilizationRates", handle)
    memory, no_memory = nvml.answer("nvmlDeviceGetMemoryInfo", handle)
    mode, no_mode = nvml.answer("nvmlDeviceGetMigMode", board)
    return _reading(
        {
            "name": (gpu.name, None),
            "uuid": (gpu.uuid, None),
            "utilization_share": (None if no_rates else rates.gpu / 100, no_rates),
            "memory_used_bytes": (None if no_memory else int(memory.used), no_memory),
            "memory_total_bytes": (None if no_memory else int(memory.total), no_memory),
            "pcie_received_bytes_per_second": _pcie(nvml, board, RECEIVED),
            "pcie_sent_bytes_per_second": _pcie(nvml, board, SENT),
            "partitions": (None if no_mode else partitions(nvml, board) if mode[0] else (), no_mode),
        }
    )


def _pcie(nvml: Nvml, board: Any, counter: int) -> tuple[float | None, str | None]:
    kibibytes, reason = nvml.answer("nvmlDeviceGetPcieThroughput", board, counter)
    return (None if reason else kibibytes * KIBIBYTE), reason
