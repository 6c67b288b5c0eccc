"""Epochs of persistent workers, for a script that expects new workers each time.

Torch resets its only iterator for each epoch. The script may use several at once, and workers that failed in one epoch
would be missing in the next.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from plumb.runtime.forwarding_iterator import ForwardingIterator


@dataclass
class _PersistentEpoch:
    """State of an epoch; `over`: the workers have gone on to another one."""

    ended: bool = False
    failed: bool = False
    over: bool = False


class PersistentEpochIterator(ForwardingIterator):
    """Iterator of one epoch for the script; everything that it doesn't define is torch's."""

    def __init__(self, batches: Iterator[Any], epoch: _PersistentEpoch) -> None:
        super().__init__(batches)
        self._epoch = epoch

    def __next__(self) -> Any:
        if self._epoch.over:
            raise StopIteration
        try:
            return super().__next__()
        except StopIteration:
            self._epoch.ended = True
            raise
        except BaseException:
            self._epoch.failed = True
            raise


class PersistentEpochs:
    """Source of the epochs of one loader that keeps its workers.

    Torch stores them on the loader, which then can't be copied or pickled any more.
    """

    def __init__(self) -> None:
        self._epoch = _PersistentEpoch()
        self._handed: Callable[[], PersistentEpochIterator | None] = lambda: None
        self._kept: Any = None

    @property
    def has_workers(self) -> bool:
        """True if there are workers that wait for the next epoch."""
        return self._kept is not None

    def renew(self) -> None:
        """Release the workers, so that the next epoch has new ones."""
        self._kept = None

    def start(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Start the next epoch, which `start` makes or resets; with new workers if the last one runs, or failed."""
        if self._epoch.failed or (self._handed() is not None and not self._epoch.ended):
            self.renew()
        self._epoch.over = self.has_workers
        self._epoch = _PersistentEpoch()
        loader._iterator = self._kept
        try:
            handed = PersistentEpochIterator(start(), self._epoch)
        finally:
            self._kept, loader._iterator = loader._iterator, None
        self._handed = weakref.ref(handed)
        return handed
