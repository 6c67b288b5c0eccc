"""Folders of sample stores: private to their user, described for people, and marked while in use."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from plumb.core.errors import StoreError
from plumb.core.printable import DAMAGED_JSON
from plumb.host.user_folder import make_user_folder, memory_root, open_private, user_folder

_PATIENCE_SECONDS = 10.0
_FACTS = "store.json"
_USERS = "users"
_GUARD = "guard"
_ENDED = "ended"


@dataclass(frozen=True)
class StoreFacts:
    """Description of a store, for people: values of `dataset` after the operator `cut`."""

    dataset: str
    cut: str
    tier: str
    budget_bytes: int


def disk_root(cache_dir: Path) -> Path:
    """Return the folder around this user's stores in `cache_dir`, which other users may share."""
    return Path(os.path.realpath(cache_dir)) / f"plumb-{os.geteuid()}"


def known_disk_roots() -> list[Path]:
    """Return the existing folders around stores on disks that this user has ever had."""
    with contextlib.suppress(OSError):
        lines = _index().read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        return [Path(line) for line in dict.fromkeys(lines) if os.path.isdir(line)]
    return []


class StoreUse:
    """Use of a store's folder by this process: it is made if missing, and marked as in use until `release`.

    A folder in memory is removed when the last process that uses it releases it, which happens automatically if the
    interpreter ends properly. Folders that killed processes left there are removed by the next one. Raises StoreError.
    """

    def __init__(self, folder: Path, facts: StoreFacts) -> None:
        try:
            folder.parent.parent.mkdir(parents=True, exist_ok=True)
            with guarded(folder.parent):
                if facts.tier == "memory":
                    _remove_unused(folder.parent)
                folder.mkdir(mode=0o700, exist_ok=True)
                os.close(open_private(folder))
                _write_facts(folder, facts)
                mark = _mark_as_user(folder)
            if facts.tier == "disk":
                _remember(folder.parent)
        except OSError as error:
            raise StoreError(f"{error.filename or folder}: {(error.strerror or str(error)).lower()}") from None
        self._finalizer = weakref.finalize(self, _leave, folder, facts.tier, mark, os.getpid())

    def release(self) -> None:
        """End the use; the store must not be open in this process any more."""
        self._finalizer()


@contextlib.contextmanager
def guarded(root: Path) -> Iterator[None]:
    """Lock `root` against other processes' making, repairing and removing of stores; make `root` if missing.

    Raises StoreError if `root` is not private or another process keeps the lock, and OSError.
    """
    descriptor = _lock_guard(root)
    try:
        yield
    finally:
        # Processes that were forked meanwhile have the file open too, so closing alone would leave it locked.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def facts_of(folder: Path) -> StoreFacts:
    """Return the description in a store's folder."""
    try:
        return msgspec.json.decode((folder / _FACTS).read_bytes(), type=StoreFacts)
    except (OSError, *DAMAGED_JSON):
        # The process that made the store was killed before it described it.
        return StoreFacts("unknown", "unknown", "unknown", 0)


def end(folder: Path, reason: str) -> bool:
    """End the use of a store's values in all processes; return whether this process was the first to do so.

    Raises OSError if the folder can't be written to.
    """
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(folder / _ENDED, flags, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(reason)
    return True


def reason_for_end(folder: str | Path) -> str | None:
    """Return why the use of a store's values was ended, None if it was not."""
    try:
        with open(os.path.join(folder, _ENDED), encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def last_used_seconds(folder: Path) -> float:
    """Return when a process last began to use the store, in seconds since the epoch."""
    return os.stat(folder / _USERS if (folder / _USERS).exists() else folder).st_mtime


def users_of(folder: Path) -> tuple[int, ...]:
    """Return the ids of the processes that use a store."""
    with contextlib.suppress(FileNotFoundError):
        marks = sorted((folder / _USERS).iterdir())
        return tuple(sorted({int(mark.name.partition("-")[0]) for mark in marks if not _is_abandoned(mark)}))
    return ()


def remove(folder: Path) -> bool:
    """Remove a store that no process uses, and return whether it was removed; the caller locks the folder around it."""
    if users_of(folder):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def remove_abandoned() -> None:
    """Remove the stores in memory whose processes were killed."""
    root = memory_root()
    if root.is_dir():
        with contextlib.suppress(OSError, StoreError), guarded(root):
            _remove_unused(root)
            remove_root_if_empty(root)


def _lock_guard(root: Path) -> int:
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < give_up_at:
        with contextlib.suppress(FileExistsError):
            root.mkdir(mode=0o700)
        folder = open_private(root)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(_GUARD, flags, 0o600, dir_fd=folder)
        finally:
            os.close(folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that removes the last store also removes the guard file.
            if os.path.samestat(os.fstat(descriptor), os.stat(root / _GUARD)):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        time.sleep(0.002)
    raise StoreError(f"{root}: another process has been at it for {_PATIENCE_SECONDS:g} s")


def _write_facts(folder: Path, facts: StoreFacts) -> None:
    scratch = folder / f"{_FACTS}.tmp"
    scratch.write_bytes(msgspec.json.encode(facts))
    os.replace(scratch, folder / _FACTS)


def _mark_as_user(folder: Path) -> tuple[Path, int]:
    """Make a file that stays locked as long as this process lives, however it ends."""
    users = folder / _USERS
    users.mkdir(mode=0o700, exist_ok=True)
    mark = users / f"{os.getpid()}-{secrets.token_hex(4)}"
    descriptor = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return mark, descriptor


def _is_abandoned(mark: Path) -> bool:
    """Return whether the process that made a mark has ended, and remove the mark in that case."""
    try:
        descriptor = os.open(mark, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        mark.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)


def _leave(folder: Path, tier: str, mark: tuple[Path, int], owner: int) -> None:
    if os.getpid() != owner:
        return
    path, descriptor = mark
    with contextlib.suppress(OSError, StoreError), guarded(folder.parent):
        path.unlink(missing_ok=True)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        if tier == "memory":
            _remove_unused(folder.parent)
            remove_root_if_empty(folder.parent)
    os.close(descriptor)


def _remove_unused(root: Path) -> None:
    for folder in stores_in(root):
        remove(folder)


def stores_in(root: Path) -> list[Path]:
    """Return the folders of the stores in `root`."""
    return sorted(path for path in root.iterdir() if path.is_dir())


def remove_root_if_empty(root: Path) -> None:
    """Remove the folder around stores if it has none; the caller locks it."""
    if [path.name for path in root.iterdir()] == [_GUARD]:
        (root / _GUARD).unlink()
        root.rmdir()


def _index() -> Path:
    return user_folder() / "cache-folders"


def _remember(root: Path) -> None:
    """Add a folder to the index. If that fails, the store is only not listed."""
    index = _index()
    with contextlib.suppress(OSError):
        make_user_folder()
        with index.open("a+", encoding="utf-8", errors="surrogateescape") as file:
            file.seek(0)
            if str(root) not in file.read().splitlines():
                file.write(f"{root}\n")
