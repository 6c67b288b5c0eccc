"""Makers of batches as a loader would make them: plain or rewritten, as in a worker or as without workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from torch.utils.data._utils import worker as torch_worker
from torch.utils.data._utils.worker import WorkerInfo

from plumb.core.errors import PlumbError
from plumb.host.host_files import HostFiles
from plumb.host.local_ranks import ranks_on_host
from plumb.host.malloc import trim_free_memory
from plumb.host.memory_limit import shm_limit
from plumb.host.threads import thread_seconds
from plumb.runtime.deferred.batch_recipe import BatchRecipe
from plumb.runtime.deferred.skipped_operators import DeferredBatch, DeferringCollate, device_of, run
from plumb.runtime.fetch import Fetch, FetchingDataset

# A batch is put into shared memory only if this many would fit.
_ROOM = 4


class NotDeferredError(PlumbError):
    """A batch takes a different path from the one on which its operators are deferred."""


class Plain:
    """Maker of batches as the loader itself makes them. Raises the errors of the dataset and the collate function."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.dataset = loader.dataset
        self._collate: Callable[[Any], Any] = loader.collate_fn

    def make(self, indices: Sequence[Any]) -> Any:
        """Make a batch as a main process does."""
        return self._collate(self._samples(indices))

    def make_shared(self, indices: Sequence[Any]) -> Any:
        """Make a batch, and copy its tensors to new shared memory as a worker without reused memory does.

        Torch's own collate function puts them there if it runs in a worker; a worker does so with those of other
        collate functions. The tensors of these may belong to the dataset, so they are copied.
        """
        samples, before = self._samples(indices), torch_worker._worker_info
        torch_worker._worker_info = WorkerInfo(id=0, num_workers=1, seed=0, dataset=self.dataset)
        try:
            batch = self._collate(samples)
        finally:
            torch_worker._worker_info = before
        return batch, [_in_shared_memory(tensor) for tensor in _tensors(batch)]

    def _samples(self, indices: Sequence[Any]) -> Any:
        return [self.dataset[index] for index in indices]


class RewrittenBatchMaker(Plain):
    """Maker of batches as `fetch` says, which also runs deferred operators.

    Raises NotDeferredError if operators are not deferred after all, and the errors of the dataset and the collate
    function.
    """

    def __init__(self, loader: DataLoader[Any], fetch: Fetch, indices: Sequence[Any]) -> None:
        super().__init__(loader)
        self._fetching = FetchingDataset(loader.dataset, fetch)
        self._finish: Callable[[Any], Any] | None = None
        if fetch.deferral:
            collate = DeferringCollate(loader.collate_fn)
            # The first batch runs its operators one by one, to record them.
            collate(self._samples(indices))
            self._collate = partial(_deferred, collate)
            recipe = BatchRecipe(self.make(indices).recipe)
            self._finish = partial(run, recipe=recipe, device=device_of(fetch.deferral))
        else:
            self.make(indices)

    def make_and_finish(self, indices: Sequence[Any]) -> Any:
        """Make a whole batch, as a main process without workers does."""
        batch = self.make(indices)
        return self._finish(batch) if self._finish else batch

    def finishing_seconds(self, indices: Sequence[Any], turns: int) -> float:
        """Return the CPU seconds per sample to run deferred operators; 0 if nothing is deferred.

        Measures several runs in a row and leaves out the first: a process that only finishes batches can't reuse the
        memory that making the batch has freed.
        """
        if self._finish is None:
            return 0.0
        finish = partial(self._finish, self.make(indices))
        trim_free_memory()
        return median([thread_seconds(finish) for _ in range(1 + turns)][1:]) / len(indices)

    def _samples(self, indices: Sequence[Any]) -> Any:
        return self._fetching.__getitems__(indices)


def has_room_to_share(batch: Any) -> bool:
    """Return whether shared memory has room for such a batch; a process that writes beyond it is killed by a signal."""
    host = HostFiles()
    return _ROOM * sum(tensor.nbytes for tensor in _tensors(batch)) < shm_limit(host, ranks_on_host(host)).value


def _deferred(collate: DeferringCollate, samples: Any) -> DeferredBatch:
    batch = collate(samples)
    if not isinstance(batch, DeferredBatch):
        raise NotDeferredError
    return batch


def _tensors(batch: Any) -> list[torch.Tensor]:
    leaves = tree_leaves(batch.batch if isinstance(batch, DeferredBatch) else batch)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and _has_bytes_here(leaf)]


def _has_bytes_here(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor.is_nested and tensor.nbytes > 0


def _in_shared_memory(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_shared():  # type: ignore[no-untyped-call]
        return tensor
    storage = torch.UntypedStorage._new_shared(tensor.nbytes)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=tensor.dtype).set_(storage).view(tensor.shape).copy_(tensor)
