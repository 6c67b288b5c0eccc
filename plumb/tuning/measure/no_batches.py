"""Reasons why a loader gives no batches."""

from __future__ import annotations

from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from plumb.core.sized import length_of


def why_no_batches(loader: DataLoader[Any]) -> str:
    """Return why an epoch of the loader ended before its first batch, as a clause."""
    if isinstance(loader.dataset, IterableDataset):
        if loader.drop_last and loader.batch_size is not None:
            return f"its dataset gives no full batch (batch_size={loader.batch_size}), and drop_last=True drops others"
        return "its dataset gives no samples"
    found = why_none_by_lengths(loader)
    if found is not None:
        return found
    return "its sampler gives no indices" if _batches_of(loader) is not None else f"{_sampler(loader)} gives no batches"


def why_none_by_lengths(loader: DataLoader[Any]) -> str | None:
    """Return why the loader gives no batches if the lengths of its dataset and samplers show it; else None."""
    if isinstance(loader.dataset, IterableDataset):
        return None
    in_dataset = length_of(loader.dataset)
    if in_dataset == 0:
        return "its dataset is empty"
    batches = _batches_of(loader)
    if batches is None:
        sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        return f"{_sampler(loader)} is empty" if length_of(sampler) == 0 else None
    indices, size = length_of(batches.sampler), batches.batch_size
    if indices == 0:
        return "its sampler is empty"
    if indices is None or not batches.drop_last or indices >= size:
        return None
    whose = "its dataset has" if indices == in_dataset else "its sampler gives"
    samples = f"{indices} sample{'s' * (indices > 1)}"
    return f"{whose} {samples}, fewer than batch_size={size}, and drop_last=True drops an incomplete batch"


def _batches_of(loader: DataLoader[Any]) -> BatchSampler | None:
    """Return the loader's batch sampler if it is torch's own; None for another one, and for a loader without one."""
    return loader.batch_sampler if type(loader.batch_sampler) is BatchSampler else None


def _sampler(loader: DataLoader[Any]) -> str:
    return "its sampler" if loader.batch_sampler is None else "its batch sampler"
