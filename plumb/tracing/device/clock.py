"""Devices on which work is tried and timed: a CUDA device, or the CPU in its place."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from plumb.core.errors import one_line
from plumb.core.gpu import GpuReading
from plumb.host.gpu_usage import read_gpu


class Device(Protocol):
    """A place for tensors with a clock of its own. `pins`: page-locked memory speeds up copies to it."""

    @property
    def name(self) -> str: ...

    @property
    def torch_device(self) -> torch.device: ...

    @property
    def pins(self) -> bool: ...

    def seconds(self, work: Callable[[], Any]) -> float:
        """Return the device's seconds for the work that `work` queues on it. Raise what `work` raises."""
        ...

    def reading(self) -> GpuReading | None:
        """Return NVML's present reading of the device; None for a device that NVML doesn't cover."""
        ...


@dataclass(frozen=True)
class Cuda:
    """A CUDA device, timed by events: the time between two points on its current stream."""

    torch_device: torch.device
    name: str
    uuid: str | None

    pins = True

    def seconds(self, work: Callable[[], Any]) -> float:
        with torch.cuda.device(self.torch_device):
            start, end = _event(), _event()
            start.record()
            work()
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def reading(self) -> GpuReading:
        return read_gpu(self.uuid, os.environ)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Cpu:
    """The CPU in place of a device."""

    name = "CPU"
    torch_device = torch.device("cpu")
    pins = False

    def seconds(self, work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def reading(self) -> None:
        return None


def current_gpu() -> Cuda | str:
    """Return torch's current CUDA device, or the reason in a few words if there is none."""
    if not torch.cuda.is_available():
        built_for_gpus = torch.version.cuda or torch.version.hip
        return _why_unseen() if built_for_gpus else "this torch is built for the CPU only"
    try:
        number = torch.cuda.current_device()
        properties = torch.cuda.get_device_properties(number)
    except RuntimeError as error:
        return one_line(error)
    uuid = getattr(properties, "uuid", None)
    return Cuda(torch.device("cuda", number), properties.name, None if uuid is None else str(uuid))


def _why_unseen() -> str:
    reading = read_gpu(None, os.environ)
    return reading.reasons.get("name", f"torch can't use the {reading.name} that NVML lists")
