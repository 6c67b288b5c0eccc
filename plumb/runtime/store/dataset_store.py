"""Stores of a loader's samples, owned by the loader's process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from plumb.core.config import CacheChoice, Cut
from plumb.core.errors import StoreError
from plumb.host.user_folder import memory_root
from plumb.runtime.store.fingerprint import fingerprint, fingerprint_of_part
from plumb.runtime.store.room import memory_budget
from plumb.runtime.store.store import StoreSpec
from plumb.runtime.store.store_folder import StoreFacts, StoreUse, disk_root, reason_for_end

_changes = 0


class DatasetStore:
    """A store for the values at a cut, as in `choice`: in memory as long as this object is referenced.

    A store in memory takes at most what the host has left now, whatever `choice` says. `apart` separates it from the
    stores of other runs. Raises StoreError if there can't be one.

    Only a part of a large dataset is digested, so that an epoch starts at once: a store in memory is then shared only
    with processes of the same job. A store that outlives the process is named after a digest of the whole dataset,
    computed once.
    """

    def __init__(self, dataset: Any, cut: Cut, choice: CacheChoice, apart: str = "") -> None:
        self._cut = cut
        self._part, self.is_of_part = fingerprint_of_part(dataset, cut)
        if not self.is_of_part:
            self.fingerprint = self._part + apart
        elif choice.folder:
            self.fingerprint = fingerprint(dataset, cut, ()) + apart
        else:
            self.fingerprint = f"{self._part}-{_job()}-{_changes}{apart}"
        root = disk_root(Path(choice.folder)) if choice.folder else memory_root()
        folder, tier = root / self.fingerprint, "disk" if choice.folder else "memory"
        size = memory_budget(choice.bytes) if tier == "memory" else choice.bytes
        self.spec = StoreSpec(str(folder), size, tier, self.fingerprint)
        self._use = StoreUse(folder, StoreFacts(type(dataset).__name__, choice.after, tier, choice.bytes))
        ended = reason_for_end(folder)
        if ended is not None:
            self._use.release()
            raise StoreError(f"the sample store in {folder} is not used: {ended}")

    def is_of(self, dataset: Any) -> bool:
        """Return whether the store's values still belong to the present state of `dataset`."""
        return self._part == fingerprint_of_part(dataset, self._cut)[0]


def note_change() -> None:
    """Record a change in a part of a dataset that isn't digested, so that no earlier store is opened again."""
    global _changes
    _changes += 1


def _job() -> int:
    """Return a number shared by the processes of one job: the launcher's process id, else this process's own."""
    return os.getppid() if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1 else os.getpid()
