"""The store of one loader's samples, kept by the process that the loader belongs to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from plumb.config import CacheChoice, Cut
from plumb.runtime.cache import StoreSpec
from plumb.runtime.fingerprint import fingerprint, fingerprint_of_part
from plumb.runtime.store_folder import StoreError, StoreFacts, StoreUse, disk_root, memory_root, reason_for_end
from plumb.runtime.store_room import memory_budget

_changes = 0


class Stored:
    """A store for the values at a cut, as `choice` has it: in memory for as long as somebody keeps this.

    A store in memory takes no more than the host has left now, whatever `choice` says. `apart` keeps it apart from the
    stores of other runs. Raises StoreError where there can't be one.

    Of a large dataset only a part is looked at, so that an epoch starts at once: a store in memory is then shared with
    processes of the same job alone. A store that outlives the process is named by all of its dataset, looked at once.
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
        """Whether the values in the store are still those of `dataset`, as it is now."""
        return self._part == fingerprint_of_part(dataset, self._cut)[0]


def note_change() -> None:
    """Take note that a dataset has changed in a part that is not looked at: no store of before is opened again."""
    global _changes
    _changes += 1


def _job() -> int:
    """A number that the processes of one job share: that of their launcher, or else of this process."""
    return os.getppid() if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1 else os.getpid()
