"""The accelerator, as far as measuring needs it. Without one, every function here says so and costs nothing."""

from __future__ import annotations

import math
import time
from functools import partial
from statistics import median
from typing import Any

import torch

from plumb.profile.accelerators import Device, current_gpu
from plumb.profile.batching import UnbatchableError, seconds_per_call
from plumb.profile.capture import Captured, capture
from plumb.profile.device_profile import DeviceProfile, OnDevice
from plumb.profile.randomness import kept_generators
from plumb.trace.pipeline import Operator, Pipeline
from plumb.trace.sources import source_of

CAPTURED_SAMPLES = 8
MOST_BATCH_SAMPLES = 64
COPIES = 5
SMALLEST_COPY_BYTES = 4096
LARGEST_COPY_BYTES = 256 * 2**20


def profile_device(
    dataset_or_loader: Any, pipeline: Pipeline, device: Device | None = None, deadline: float = math.inf
) -> DeviceProfile:
    """Tries each operator of a traced pipeline on the device, and measures the way to it from the host.

    Loads a few samples of the dataset that `pipeline` was traced from, twice. The device is torch's current GPU unless
    one is given; without any, nothing is loaded. No operator is tried after the `deadline`. The process's random
    generators are put back as they were. Raises what the dataset raises, never for an operator that fails on the
    device.
    """
    found = current_gpu() if device is None else device
    if isinstance(found, str):
        return DeviceProfile.none(found)
    batch_samples = min(pipeline.batch_size or CAPTURED_SAMPLES, MOST_BATCH_SAMPLES)
    with kept_generators():
        captured = _captured(dataset_or_loader, pipeline, deadline)
        operators = {
            operator.id: _on_device(operator, captured, found, batch_samples, deadline)
            for operator in pipeline.operators
        }
    copy_bytes = _batch_bytes(pipeline)
    return DeviceProfile(
        device=found.name,
        reason=None,
        batch_samples=batch_samples,
        operators=operators,
        copy_bytes=copy_bytes,
        pinned_bytes_per_second=copy_bytes_per_second(found, copy_bytes, pinned=True),
        pageable_bytes_per_second=copy_bytes_per_second(found, copy_bytes, pinned=False),
        gpu=found.reading(),
    )


def copy_bytes_per_second(device: Device, size_bytes: int, *, pinned: bool) -> float | None:
    """The rate at which `size_bytes` bytes go from the host to the device: the median of several copies.

    None where the memory can't be had, or be pinned.
    """
    if pinned and not device.pins:
        return None
    try:
        # Written to, for pages that nobody has written to are all the same one.
        source = torch.ones(size_bytes, dtype=torch.uint8, pin_memory=pinned)
        target = torch.empty(size_bytes, dtype=torch.uint8, device=device.torch_device)
        copy = partial(target.copy_, source, non_blocking=pinned)
        device.seconds(copy)
        return size_bytes / max(median(device.seconds(copy) for _ in range(COPIES)), 1e-9)
    except RuntimeError:
        return None


def _captured(dataset_or_loader: Any, pipeline: Pipeline, deadline: float) -> Captured:
    is_loader = hasattr(dataset_or_loader, "dataset") and hasattr(dataset_or_loader, "collate_fn")
    dataset = dataset_or_loader.dataset if is_loader else dataset_or_loader
    source = source_of(dataset, CAPTURED_SAMPLES, None, pipeline.batch_size or 1)
    units = max(1, CAPTURED_SAMPLES // source.unit_samples)
    wanted = [operator for operator in pipeline.operators if _excluded(operator) is None]
    return capture(source, units, wanted, deadline)


def _excluded(operator: Operator) -> str | None:
    """Why an operator isn't tried at all, if so."""
    if operator.random:
        return "random"
    if operator.kind == "collate":
        return "makes the batch"
    return None if operator.sites else "no tensor"


def _on_device(operator: Operator, captured: Captured, device: Device, batch_samples: int, deadline: float) -> OnDevice:
    reason = _excluded(operator) or captured.reasons.get(operator.id)
    if time.perf_counter() > deadline:
        reason = reason or "no time"
    if reason is not None:
        return OnDevice(None, reason)
    try:
        seconds = seconds_per_call(captured.calls[operator.id], device, batch_samples)
    except UnbatchableError as error:
        return OnDevice(None, str(error))
    return OnDevice(seconds * operator.calls_per_sample, None)


def _batch_bytes(pipeline: Pipeline) -> int:
    """The bytes of one batch, as far as the trace saw what goes into it, within what is sensible to copy."""
    if not pipeline.operators:
        return SMALLEST_COPY_BYTES
    last = pipeline.operators[-1]
    given = sum(flow.bytes for _, _, flow in pipeline.graph.in_edges(last.id, data="flow"))
    size = int(max(given, last.output_bytes) * (pipeline.batch_size or 1))
    return min(max(size, SMALLEST_COPY_BYTES), LARGEST_COPY_BYTES)


def synchronize() -> None:
    """Waits until the accelerator has done all that it was asked to; returns at once where none is in use."""
    if uses_accelerator():
        torch.cuda.synchronize()


def has_accelerator() -> bool:
    """Whether batches may go to an accelerator."""
    return torch.cuda.is_available()


def uses_accelerator() -> bool:
    """Whether this process has used an accelerator already."""
    return torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
