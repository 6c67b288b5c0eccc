"""Number of samples in a loader's batch: the unit of all rates, whatever makes the batches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from itertools import islice
from statistics import fmean
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from plumb.core.sized import index_count, length_of
from plumb.instrument.rng_state import restored_generators
from plumb.runtime.loader import index_sampler
from plumb.tuning.measure.sample_cost import samples_in
from plumb.tuning.measure.throughput import IndexStream

# Batches of a sampler may differ in size: up to this many are counted, for at most this long.
_BATCHES, _SECONDS = 64, 0.5


def samples_per_batch(loader: DataLoader[Any], seen: float | None = None) -> float:
    """Return the average number of samples in a batch.

    Args:
        loader: The user's loader, iterated or not. Its sampler may be advanced, and if the dataset makes its own
            batches and none was seen, one is made.
        seen: Samples in a batch that the loop got; None if it has got none.
    """
    if loader.batch_size is not None:
        return float(min(loader.batch_size, length_of(loader.sampler) or loader.batch_size))
    with restored_generators(), contextlib.suppress(Exception):
        # An error here occurs again where the loader is read, and is reported there.
        sizes = list(_sizes_of_index_batches(loader))
        return fmean(sizes) if sizes else seen or float(_samples_of_a_batch(loader) or 1)
    return seen or 1.0


def index_stream(loader: DataLoader[Any]) -> IndexStream:
    """Return the index batches of a loader, or its single indices if the dataset makes the batches."""
    return IndexStream(index_sampler(loader), is_batches=loader.batch_sampler is not None)


def _sizes_of_index_batches(loader: DataLoader[Any]) -> Iterator[int]:
    """Yield the sizes of the first index batches; nothing if the dataset makes its own batches."""
    if isinstance(loader.dataset, IterableDataset):
        return
    until = time.perf_counter() + _SECONDS
    for indices in islice(index_sampler(loader), _BATCHES):
        size = index_count(indices, loader.batch_sampler is not None)
        if size is None:
            return
        yield size
        if time.perf_counter() > until:
            return


def _samples_of_a_batch(loader: DataLoader[Any]) -> int:
    """Return the number of samples in the first batch that the dataset makes itself."""
    if isinstance(loader.dataset, IterableDataset):
        made = next(iter(loader.dataset))
    else:
        made = loader.dataset[next(iter(index_sampler(loader)))]
    return samples_in(loader.collate_fn(made))
