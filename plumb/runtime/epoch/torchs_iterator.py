"""Torch's iterator as scripts see it: its attributes, its length, and what it answers to those who look inside."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import (
    _BaseDataLoaderIter,
    _MultiProcessingDataLoaderIter,
    _SingleProcessDataLoaderIter,
)

from plumb.runtime.epoch.epoch_order import EpochOrder
from plumb.runtime.epoch.loader_run import LoaderRun
from plumb.runtime.epoch.segment import LoaderSegment
from plumb.runtime.loader import index_sampler


class TorchsIterator(_BaseDataLoaderIter):
    """Base of an iterator that is one of torch's to all other code, with the user's own configuration.

    What torch's has and this one has not, is looked up in the iterator that reads at present.
    """

    order: EpochOrder
    _template: DataLoader[Any]
    _run: LoaderRun
    _segments: deque[LoaderSegment]

    def _close_all(self, but: LoaderSegment | None = None) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(index_sampler(self._template))  # type: ignore[arg-type]

    def __getstate__(self) -> Any:
        kind = _MultiProcessingDataLoaderIter if self._run.own.num_workers else _SingleProcessDataLoaderIter
        raise NotImplementedError("{} cannot be pickled", kind.__name__)

    def __getattr__(self, name: str) -> Any:
        segments = self.__dict__.get("_segments")
        if name.startswith("__") or not segments:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(segments[0].batches, name)

    @property
    def _workers(self) -> list[Any]:
        return [worker for segment in self._segments for worker in segment.workers]

    def _shutdown_workers(self) -> None:
        if self._run.kept in self._segments:
            self._run.kept = None
        self._close_all()

    @property
    def _sampler_iter(self) -> Iterator[Any]:
        return _Skipped(self.order)

    def _look_like_torch_s(self) -> None:
        template, own = self._template, self._run.own
        kind = _MultiProcessingDataLoaderIter if own.num_workers else _SingleProcessDataLoaderIter
        self._dataset = template.dataset
        self._dataset_kind = template._dataset_kind
        self._IterableDataset_len_called = None
        self._auto_collation = template._auto_collation
        self._drop_last = template.drop_last
        self._index_sampler = index_sampler(template)
        self._num_workers = own.num_workers
        self._pin_memory = own.pin_memory
        self._timeout = template.timeout
        self._collate_fn = template.collate_fn
        self._persistent_workers = own.persistent_workers
        self._shared_seed = None
        self._num_yielded = 0
        self._profile_name = f"enumerate(DataLoader)#{kind.__name__}.__next__"


class _Skipped:
    """Replacement of the sampler's iterator: items taken from it are not delivered, as with torch's own."""

    def __init__(self, order: EpochOrder) -> None:
        self._order = order

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._order.skip()
