"""GPUs that this process may use, from NVML: no CUDA context is made and torch isn't imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from plumb.core.gpu import Gpu
from plumb.host.nvml_access import Nvml, open_nvml


def gpus(environ: Mapping[str, str]) -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs selected by CUDA_VISIBLE_DEVICES with their source, or none with the reason.

    Numbers in CUDA_VISIBLE_DEVICES are taken in NVML's order, that of the PCI bus. CUDA's own order differs from it
    only on hosts with GPUs of several models and without CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    with open_nvml() as nvml:
        if isinstance(nvml, str):
            return (), nvml
        found = _visible(list(_devices(nvml)), environ.get("CUDA_VISIBLE_DEVICES"))
    if found:
        return found, "NVML"
    if "CUDA_VISIBLE_DEVICES" in environ:
        return (), f"CUDA_VISIBLE_DEVICES={environ['CUDA_VISIBLE_DEVICES']!r} leaves none"
    return (), "NVML lists none"


def _devices(nvml: Nvml) -> Iterator[tuple[int, Gpu]]:
    """Yield every usable device with the number of the GPU that it is, or is a part of."""
    for number in range(nvml.ask("nvmlDeviceGetCount") or 0):
        handle = nvml.ask("nvmlDeviceGetHandleByIndex", number)
        if handle is None:
            continue
        # The first of the two modes is the current one; a GPU that is partitioned can't be used as a whole.
        if (nvml.ask("nvmlDeviceGetMigMode", handle) or (0,))[0]:
            yield from ((number, part) for part in partitions(nvml, handle))
        else:
            yield number, _gpu(nvml, handle, handle)


def partitions(nvml: Nvml, board: Any) -> tuple[Gpu, ...]:
    """Return the MIG partitions of the GPU with the NVML handle `board`; none if it isn't partitioned."""
    most = nvml.ask("nvmlDeviceGetMaxMigDeviceCount", board) or 0
    parts = (nvml.ask("nvmlDeviceGetMigDeviceHandleByIndex", board, number) for number in range(most))
    return tuple(_gpu(nvml, part, board) for part in parts if part is not None)


def _gpu(nvml: Nvml, handle: Any, board: Any) -> Gpu:
    memory = nvml.ask("nvmlDeviceGetMemoryInfo", handle)
    return Gpu(
        name=nvml.ask("nvmlDeviceGetName", handle) or "unnamed GPU",
        uuid=nvml.ask("nvmlDeviceGetUUID", handle),
        mig=handle is not board,
        memory_bytes=None if memory is None else int(memory.total),
        memory_free_bytes=None if memory is None else int(memory.free),
        pcie_generation=nvml.ask("nvmlDeviceGetCurrPcieLinkGeneration", board),
        pcie_generation_most=nvml.ask("nvmlDeviceGetMaxPcieLinkGeneration", board),
        pcie_width=nvml.ask("nvmlDeviceGetCurrPcieLinkWidth", board),
        pcie_width_most=nvml.ask("nvmlDeviceGetMaxPcieLinkWidth", board),
    )


def _visible(devices: list[tuple[int, Gpu]], variable: str | None) -> tuple[Gpu, ...]:
    """Return the devices that CUDA shows, in the variable's order, up to the first unknown name."""
    if variable is None:
        return tuple(gpu for _, gpu in devices)
    shown: list[Gpu] = []
    for word in (word.strip() for word in variable.split(",")):
        named = [gpu for number, gpu in devices if word == str(number) or (word and (gpu.uuid or "").startswith(word))]
        if not named:
            break
        shown += named
    return tuple(shown)
