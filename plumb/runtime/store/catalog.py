"""Sample stores on this host: their contents and users, and the removal of unused ones."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import lmdb

from plumb.host import user_folder
from plumb.runtime.store import store_folder
from plumb.runtime.store.store_folder import StoreFacts


@dataclass(frozen=True)
class FoundStore:
    """A store on this host. `samples` is None if its files are damaged, `users` are the processes that use it."""

    folder: Path
    facts: StoreFacts
    samples: int | None
    used_bytes: int
    users: tuple[int, ...]
    last_used_seconds: float


def find_stores(cache_dir: Path | None = None) -> list[FoundStore]:
    """Return the user's stores in `cache_dir`; if None, those in shared memory and in every known cache folder.

    Raises StoreError if a folder can't be trusted.
    """
    found: list[FoundStore] = []
    for root in _roots(cache_dir):
        with store_folder.guarded(root):
            found += map(_found, store_folder.stores_in(root))
            store_folder.remove_root_if_empty(root)
    return found


def clear_stores(cache_dir: Path | None = None) -> tuple[list[FoundStore], list[FoundStore]]:
    """Remove unused stores; return those removed, and those left alone. Raises as `find_stores`."""
    removed: list[FoundStore] = []
    left: list[FoundStore] = []
    for store in find_stores(cache_dir):
        root = store.folder.parent
        with store_folder.guarded(root):
            (removed if store_folder.remove(store.folder) else left).append(store)
            store_folder.remove_root_if_empty(root)
    return removed, left


def _roots(cache_dir: Path | None) -> list[Path]:
    """Return the folders around stores that exist."""
    if cache_dir is not None:
        roots = [store_folder.disk_root(cache_dir)]
    else:
        roots = [user_folder.memory_root(), *store_folder.known_disk_roots()]
    return [root for root in roots if root.is_dir()]


def _found(folder: Path) -> FoundStore:
    return FoundStore(
        folder,
        store_folder.facts_of(folder),
        _samples_in(folder),
        _disk_bytes(folder),
        store_folder.users_of(folder),
        store_folder.last_used_seconds(folder),
    )


def _samples_in(folder: Path) -> int | None:
    if not (folder / "data.mdb").exists():
        return 0
    try:
        # Without a lock nothing is written, and only the first pages are read, which contain the number of values.
        with lmdb.open(str(folder), readonly=True, lock=False, create=False) as opened:
            return int(opened.stat()["entries"])
    except lmdb.Error:
        return None


def _disk_bytes(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return os.stat(folder / "data.mdb").st_blocks * 512
    return 0
