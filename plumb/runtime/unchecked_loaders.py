"""Loaders whose batches can't be checked while they are used, so that their samples are made as the script does."""

from __future__ import annotations

from typing import Any

from torch.utils.data import IterableDataset, MapDataPipe

from plumb.core.config import Config
from plumb.instrument.saved_state import is_stateful
from plumb.instrument.torch_loader import DataLoader

# A subclass that overrides these reads in its own way, which torch's iterator follows.
_TORCHS_WAY = ("_get_iterator", "_index_sampler", "_auto_collation")


def is_read_by_index(loader: DataLoader[Any]) -> bool:
    """Return whether the dataset is map-style."""
    return not isinstance(loader.dataset, (IterableDataset, MapDataPipe))


def makes_own_iterator(loader: DataLoader[Any]) -> bool:
    """Return whether the loader's class replaces torch's own way to read an epoch."""
    return not all(_is_torchs(type(loader), name) for name in _TORCHS_WAY)


def why_unchecked(loader: DataLoader[Any], users: Config) -> str | None:
    """Return why the loader's batches can't be checked while it runs; None if they can.

    Without workers of the user's, every batch is made and checked in the main process.

    Args:
        loader: The loader.
        users: The configuration that the script gave it.
    """
    if users.num_workers and is_stateful(loader):
        return "its workers save their place"
    if users.num_workers and makes_own_iterator(loader):
        return "its class makes its own iterator"
    if users.num_workers and not users.in_order:
        return "they come in any order"
    return None if is_read_by_index(loader) else "they are not read by index"


def _is_torchs(kind: type, name: str) -> bool:
    return next(vars(each)[name] for each in kind.__mro__ if name in vars(each)) is vars(DataLoader)[name]
