"""The accelerator, as far as measuring needs it. Without one, every function here says so and costs nothing."""

from __future__ import annotations

from typing import Any

import torch


def synchronize() -> None:
    """Waits until the accelerator has done all that it was asked to; returns at once where none is in use."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()


def has_accelerator() -> bool:
    """Whether batches may go to an accelerator, so that pinned memory can help."""
    return torch.cuda.is_available()


def pinned(batch: Any) -> Any:
    """The batch with its tensors in page-locked memory, as a loader with `pin_memory=True` hands it over."""
    from torch.utils.data._utils.pin_memory import pin_memory

    return pin_memory(batch)  # type: ignore[no-untyped-call]
