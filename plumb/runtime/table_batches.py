"""Batches of rows in tensors, read at once instead of row by row with collating."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map

from plumb.runtime.shared_buffers import is_ordinary


@dataclass(frozen=True)
class WholeBatch:
    """A batch that needs no collating."""

    batch: list[torch.Tensor]


@dataclass(frozen=True)
class WholeCollate:
    """The loader's collate function, which passes whole batches unchanged; picklable if the loader's is."""

    collate_fn: Callable[[Any], Any]

    def __call__(self, samples: Any) -> Any:
        """Return the batch."""
        return samples.batch if isinstance(samples, WholeBatch) else self.collate_fn(samples)


def may_read_whole(loader: DataLoader[Any]) -> bool:
    """Return whether a loader's batches are rows of tensors, collated by torch's default function."""
    dataset: Any = loader.dataset
    while type(dataset) is Subset:
        dataset = dataset.dataset
    is_default = loader.collate_fn is default_collate and default_collate_fn_map.get(torch.Tensor) is collate_tensor_fn
    return loader.batch_sampler is not None and is_default and type(dataset) is TensorDataset


def whole_batch(dataset: Any, indices: Sequence[Any]) -> WholeBatch | None:
    """Read the rows at `indices` of a `TensorDataset`, or of a `Subset` of one, at once.

    Returns:
        The result of torch's default collate function on the rows, bit for bit; None if rows must be read one by one:
        tensors that are not ordinary, or indices that are not plain places, such as those that raise.
    """
    try:
        while type(dataset) is Subset:
            indices, dataset = [dataset.indices[index] for index in indices], dataset.dataset
        if type(dataset) is not TensorDataset or not indices or any(isinstance(index, bool) for index in indices):
            return None
        places = torch.tensor([operator.index(index) for index in indices])
    except Exception:
        # Reading row by row raises the same error where the script expects it.
        return None
    least, most = int(places.min()), int(places.max())
    for tensor in dataset.tensors:
        is_table = is_ordinary(tensor) and tensor.dim() > 0 and tensor.is_contiguous()
        if not is_table or least < 0 or most >= len(tensor):
            return None
    return WholeBatch([tensor.index_select(0, places) for tensor in dataset.tensors])
