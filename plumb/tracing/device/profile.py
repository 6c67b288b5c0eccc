"""Measurements on the accelerator. Without one, each function reports that at once."""

from __future__ import annotations

import math
import time
from functools import partial
from statistics import median
from typing import Any

import torch

from plumb.core.device_profile import DeviceProfile, OnDevice
from plumb.instrument.rng_state import restored_generators
from plumb.tracing.capture_pass import CapturedCalls, capture
from plumb.tracing.device.batched_call import UnbatchableError, seconds_per_call
from plumb.tracing.device.clock import Device, current_gpu
from plumb.tracing.pipeline import Operator, Pipeline
from plumb.tracing.sample_source import source_of

CAPTURED_SAMPLES = 8
MOST_BATCH_SAMPLES = 64
COPIES = 5
SMALLEST_COPY_BYTES = 4096
LARGEST_COPY_BYTES = 256 * 2**20


def profile_device(
    dataset_or_loader: Any, pipeline: Pipeline, device: Device | None = None, deadline: float = math.inf
) -> DeviceProfile:
    """Time each operator of a traced pipeline on the device, and measure copies from the host to it.

    Loads a few samples of the dataset that `pipeline` was traced from, twice, and restores the process's random number
    generators. An operator that fails on the device gets its reason in the profile.

    Args:
        dataset_or_loader: The dataset or loader that `pipeline` was traced from.
        pipeline: Traced pipeline.
        device: Device to use; None takes torch's current GPU. Without a GPU, nothing is loaded.
        deadline: Latest time in `time.perf_counter` seconds at which another operator is tried.

    Raises:
        Exception: What the dataset raises.

    """
    found = current_gpu() if device is None else device
    if isinstance(found, str):
        return DeviceProfile.none(found)
    batch_samples = min(pipeline.batch_size or CAPTURED_SAMPLES, MOST_BATCH_SAMPLES)
    with restored_generators():
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
    """Return the bytes per second of copies from the host to the device: the median of several.

    Args:
        device: Device to copy to.
        size_bytes: Bytes per copy.
        pinned: Whether to copy from page-locked memory.

    Returns:
        The rate, or None if the memory can't be allocated or pinned.

    """
    if pinned and not device.pins:
        return None
    try:
        # Filled with ones, because pages that were never written all map to the same zero page.
        source = torch.ones(size_bytes, dtype=torch.uint8, pin_memory=pinned)
        target = torch.empty(size_bytes, dtype=torch.uint8, device=device.torch_device)
        copy = partial(target.copy_, source, non_blocking=pinned)
        device.seconds(copy)
        return size_bytes / max(median(device.seconds(copy) for _ in range(COPIES)), 1e-9)
    except RuntimeError:
        return None


def _captured(dataset_or_loader: Any, pipeline: Pipeline, deadline: float) -> CapturedCalls:
    is_loader = hasattr(dataset_or_loader, "dataset") and hasattr(dataset_or_loader, "collate_fn")
    dataset = dataset_or_loader.dataset if is_loader else dataset_or_loader
    source = source_of(dataset, CAPTURED_SAMPLES, None, pipeline.batch_size or 1)
    units = max(1, CAPTURED_SAMPLES // source.unit_samples)
    wanted = [operator for operator in pipeline.operators if _excluded(operator) is None]
    return capture(source, units, wanted, deadline)


def _excluded(operator: Operator) -> str | None:
    """Return the reason for which an operator isn't tried at all, or None."""
    if operator.random:
        return "random"
    if operator.kind == "collate":
        return "makes the batch"
    return None if operator.sites else "no tensor"


def _on_device(
    operator: Operator, captured: CapturedCalls, device: Device, batch_samples: int, deadline: float
) -> OnDevice:
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
    """Return the bytes of one batch, from the values that the trace saw going into it, within limits for a copy."""
    if not pipeline.operators:
        return SMALLEST_COPY_BYTES
    last = pipeline.operators[-1]
    given = sum(flow.bytes for _, _, flow in pipeline.graph.in_edges(last.id, data="flow"))
    size = int(max(given, last.output_bytes) * (pipeline.batch_size or 1))
    return min(max(size, SMALLEST_COPY_BYTES), LARGEST_COPY_BYTES)


def synchronize() -> None:
    """Wait until the accelerator has done all queued work; return at once if none is in use."""
    if uses_accelerator():
        torch.cuda.synchronize()


def has_accelerator() -> bool:
    """Return whether batches may go to an accelerator."""
    return torch.cuda.is_available()


def uses_accelerator() -> bool:
    """Return whether this process has initialised an accelerator."""
    return torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
