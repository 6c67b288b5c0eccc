"""Iterators of a user's loader on a configuration of plumb's, with some of the loader's parts replaced.

The loader itself stays as the script made it: scripts read `loader.dataset.classes`, or pass the loader on. Its parts
are replaced only during the call that makes an iterator, so that no other code sees them.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data._utils import worker

from plumb.core.config import Config, Cut, Rewrites
from plumb.core.errors import StoreError
from plumb.host import malloc
from plumb.instrument.tracebacks import without_plumb
from plumb.runtime.deferred.skipped_operators import DeferringCollate, Undeferred, device_of
from plumb.runtime.fetch import Fetch, FetchingDataset
from plumb.runtime.marked_batches import CheckedCollate
from plumb.runtime.plain_batches import PlainBatches
from plumb.runtime.shared_buffers import BufferedCollate, BufferReader
from plumb.runtime.store.dataset_store import DatasetStore, note_change
from plumb.runtime.table_batches import WholeCollate, may_read_whole


@dataclass(frozen=True)
class WorkerInit:
    """Start of a worker before its first sample: the configuration's settings, then the user's `worker_init_fn`.

    Afterwards errors reach the script without plumb's frames, and the worker's info has the user's dataset, as without
    plumb. Picklable if the user's function is.
    """

    torch_threads: int
    allocator_reuse: bool
    then: Callable[[int], None] | None

    def __call__(self, worker_id: int) -> None:
        # Garbage collection of the inherited memory would take long, and copy that memory.
        gc.freeze()
        worker.ExceptionWrapper = _wrapped  # type: ignore[attr-defined,assignment]
        if self.torch_threads > 1:
            torch.set_num_threads(self.torch_threads)
        if self.allocator_reuse:
            malloc.reuse_until_exit()
        info = get_worker_info()
        if info is not None and isinstance(info.dataset, FetchingDataset):
            # Torch forbids setting it.
            object.__setattr__(info, "dataset", info.dataset.dataset)
        if self.then is not None:
            self.then(worker_id)


def _wrapped(exc_info: Any = None, where: str = "in background") -> ExceptionWrapper:
    """Wrap an error for the main process, with only the user's and torch's part of its traceback."""
    error = sys.exc_info()[1] if exc_info is None else exc_info[1]
    assert error is not None
    without_plumb(error)
    return ExceptionWrapper((type(error), error, error.__traceback__), where)  # type: ignore[no-untyped-call]


class IteratorSetup:
    """Starter of one loader's iterators on `config`, with the rewrites that it names.

    `stored` is a store to read from, without adding to it; if it is None, the configuration's store is made when an
    epoch starts, and remade if the dataset has changed by then. `is_planned`: the rewrites were found in another run,
    perhaps in other code. `is_checked`: marked indices return with a note.
    """

    def __init__(
        self,
        config: Config,
        rewrites: Rewrites,
        stored: DatasetStore | None = None,
        is_planned: bool = False,
        is_checked: bool = False,
    ) -> None:
        self._config = config
        self._is_planned = is_planned
        self._is_checked = is_checked
        self._deferral = rewrites.deferral if config.deferred and not config.reads_whole_batches else None
        self._cut = cut_of(config, rewrites)
        self.stored = stored
        self._is_frozen = stored is not None
        self._refusal = ""
        self._unseen_changes = 0

    def start(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Return the iterator that `start` makes or resets for `loader`, whose batches are read as `config` says."""
        config = self._config
        # Torch stores an iterator on the loader if its workers persist; other classes always do.
        if loader._iterator is None or not loader.persistent_workers:
            self._renew_store(loader.dataset)
        fetch = Fetch(
            config.fetch_threads,
            self._cut,
            self._deferral,
            self.stored.spec if self.stored else None,
            self._is_frozen,
            self._is_planned,
            config.reads_whole_batches and may_read_whole(loader),
        )
        parts: dict[str, Any] = {}
        # A stream can't be read by index, even if a plan for another dataset says so.
        if (self._is_checked or fetch.rewrites) and not isinstance(loader.dataset, IterableDataset):
            plainly = PlainBatches(loader.dataset, loader.collate_fn, loader._auto_collation)
            parts["dataset"] = FetchingDataset(loader.dataset, fetch, plainly if self._is_checked else None)
        if self._deferral is not None:
            parts["collate_fn"] = DeferringCollate(loader.collate_fn)
        if fetch.whole_batches:
            parts["collate_fn"] = WholeCollate(loader.collate_fn)
        if self._is_checked and "dataset" in parts:
            parts["collate_fn"] = CheckedCollate(parts.get("collate_fn", loader.collate_fn))
        receiver = self._receiver(loader)
        if receiver is not None:
            parts["collate_fn"] = BufferedCollate(parts.get("collate_fn", loader.collate_fn), receiver.terms)
        if loader.num_workers and (parts or config.worker_torch_threads > 1 or config.allocator_reuse):
            parts["worker_init_fn"] = WorkerInit(
                config.worker_torch_threads, config.allocator_reuse, loader.worker_init_fn
            )
        with exchanged(loader, parts):
            batches = start()
        if receiver is not None:
            # Lasts as long as the iterator.
            vars(batches)["_plumb_receiver"] = receiver
        if self._deferral is None:
            return batches
        return Undeferred(batches, loader.num_workers > 0, device_of(self._deferral))

    def _receiver(self, loader: DataLoader[Any]) -> BufferReader | None:
        """Return the receiver of batches in reused memory if workers about to start may use it, else None."""
        if not loader.num_workers or not self._config.allocator_reuse or loader._iterator is not None:
            return None
        return BufferReader(loader.num_workers, loader.prefetch_factor or 0)

    def is_stale(self, dataset: Any) -> bool:
        """Return whether the present store has the values of an earlier state of the dataset."""
        return self.stored is not None and not self.stored.is_of(dataset)

    def note_change(self, dataset: Any) -> None:
        """Abandon a store whose fingerprint doesn't show the script's change of its dataset."""
        if self.stored is None or self._is_frozen:
            return
        if self.stored.is_of_part:
            note_change()
            self.stored = None
        elif self.stored.is_of(dataset):
            # Its name doesn't reflect the change, so its values may be those from before.
            self.stored = None
            self._unseen_changes += 1

    def _renew_store(self, dataset: Any) -> None:
        choice = self._config.cache
        if self._is_frozen or choice is None or self._cut is None or (self.stored and self.stored.is_of(dataset)):
            return
        self.stored = None
        if self._unseen_changes and choice.folder:
            # A later run would use the store for the dataset's state at that time.
            return
        apart = f"-{os.getpid()}-{self._unseen_changes}" if self._unseen_changes else ""
        try:
            self.stored = DatasetStore(dataset, self._cut, choice, apart)
        except StoreError as error:
            if str(error) != self._refusal:
                self._refusal = str(error)
                print(f"plumb: {error}; samples are made anew each time", file=sys.stderr)


def cut_of(config: Config, rewrites: Rewrites) -> Cut | None:
    """Return the cut at which `config` stores values, or up to which its threads work; None for none."""
    after = config.cache.after if config.cache else config.fetch_until
    return next((cut for cut in rewrites.cuts if cut.after == after), None)


@contextmanager
def exchanged(loader: DataLoader[Any], parts: Mapping[str, Any]) -> Iterator[None]:
    """Replace parts of the loader in the context; bypasses torch, which forbids setting them after construction."""
    theirs = {name: getattr(loader, name) for name in parts}
    try:
        for name, part in parts.items():
            object.__setattr__(loader, name, part)
        yield
    finally:
        for name, part in theirs.items():
            object.__setattr__(loader, name, part)
