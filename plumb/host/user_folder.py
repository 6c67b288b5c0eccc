"""Folders of this user's: what plumb keeps from one run to the next, and stores in shared memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from plumb.core.errors import StoreError

SHARED_MEMORY = Path("/dev/shm")


def memory_root() -> Path:
    """Return the folder around this user's stores in shared memory."""
    return SHARED_MEMORY / f"plumb-{os.geteuid()}"


def open_private(folder: Path) -> int:
    """Return a descriptor of a folder that only this user can write to. Raises StoreError and OSError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise StoreError(f"{folder} is not a folder: remove it, or choose another cache folder") from None
    status = os.fstat(descriptor)
    if status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return descriptor
    os.close(descriptor)
    if status.st_uid != os.geteuid():
        raise StoreError(f"{folder} belongs to another user: choose another cache folder")
    raise StoreError(f"{folder} may be written to by others: remove it, what it holds can't be trusted")


def user_folder() -> Path:
    """Return the folder of plumb's lasting files for this user; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "plumb"


def make_user_folder() -> Path:
    """Make `user_folder`, if missing, such that only its user can look inside. Raise OSError if that fails."""
    folder = user_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def open_user_folder(name: str) -> int:
    """Make a private folder in the user's folder, if missing; return a descriptor. Raises StoreError and OSError."""
    folder = make_user_folder() / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return open_private(folder)
