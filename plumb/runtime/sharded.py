"""Sharing of an iterable dataset among workers, if the user agrees."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info


class Sharded(IterableDataset[Any]):
    """`dataset`, of which each of n workers delivers every n-th block of `block` samples; without workers, all of it.

    With the loader's batch size as `block`, the batches are the same, in the same order, for every number of workers.
    Only for a dataset that delivers its samples in the same order each time, and doesn't share them out itself. Every
    worker still reads the whole stream: only the work after it (collating, transfer) is divided. Attributes are the
    dataset's own. Raises ValueError if `block` is not positive.
    """

    def __init__(self, dataset: IterableDataset[Any], block: int = 1) -> None:
        if block < 1:
            raise ValueError(f"block={block}: at least one sample must stay together")
        self.dataset = dataset
        self.block = block

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        return iter(self.dataset) if info is None else self._share(info.id, info.num_workers)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        # Copying looks up attributes before they exist.
        if name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def _share(self, worker: int, workers: int) -> Iterator[Any]:
        samples = iter(self.dataset)
        skipped = worker * self.block
        while True:
            for _ in islice(samples, skipped):
                pass
            block = list(islice(samples, self.block))
            if not block:
                return
            yield from block
            skipped = (workers - 1) * self.block
