"""The time that collating takes."""

from __future__ import annotations

import timeit
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from plumb.host.threads import one_torch_thread

COLLATED = 3
"""Number of times that `collate_seconds` loads each sample."""


def collate_seconds(loader: DataLoader[Any], indices: Sequence[Any]) -> float:
    """Return a worker's seconds per sample to collate samples. Raise what the dataset and collate raise."""
    seconds = []
    with one_torch_thread():
        for _ in range(COLLATED):
            # Loaded anew each time, because the user's code may change samples in place.
            samples = [loader.dataset[index] for index in indices]
            seconds.append(timeit.timeit(partial(loader.collate_fn, samples), number=1))
    return min(seconds) / len(indices)
