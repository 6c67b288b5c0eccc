"""Page-locked memory for batches, under the conditions under which torch's own loader uses it."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data._utils.pin_memory import pin_memory


def can_pin() -> bool:
    """Return whether a loader with `pin_memory=True` pins its batches on this host.

    Without an accelerator torch's loader warns and goes on with pageable memory, while `Tensor.pin_memory` raises.
    """
    accelerator = getattr(torch, "accelerator", None)  # since torch 2.6
    if accelerator is None:
        return torch.cuda.is_available()
    # Torch's loader refuses to pin for MPS (pytorch/pytorch#86060).
    return bool(accelerator.is_available()) and accelerator.current_accelerator().type != "mps"


def pinned(batch: Any) -> Any:
    """Return a batch, or a single tensor, as a loader with `pin_memory=True` returns it.

    Its tensors are page-locked if torch can pin; if not, the same batch is returned unchanged. Raises what torch's
    loader raises for a batch that can't be pinned.
    """
    return pin_memory(batch) if can_pin() else batch  # type: ignore[no-untyped-call]


def is_pinnable(batch: Any) -> bool:
    """Return whether torch can pin this batch; tensors on a device, for example, can't be pinned."""
    if not can_pin():
        return False
    try:
        pinned(batch)
    except Exception:
        return False
    return True
