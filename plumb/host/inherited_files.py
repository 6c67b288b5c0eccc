"""Reopening of the files that a forked process inherits, so that no two processes share a position in a file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator

DESCRIPTORS = "/proc/self/fd"
# A descriptor with this flag only names a file. Python doesn't have the flag on every system.
_PATH_ONLY = getattr(os, "O_PATH", 0)


def reopen_inherited_files() -> tuple[int, ...]:
    """Reopen each regular file that is open for reading only, with its number and position.

    A forked process shares the position in a file with its parent, so that two that seek and read would read each
    other's bytes. Buffers of Python's and C's file objects stay valid, because they depend on the position. A file that
    is also open for writing is left alone: writes go to one place, as without plumb, and databases lock their open
    files.

    Returns:
        The numbers of the files that could not be reopened, such as files that this user may not read any more.
    """
    failed = []
    for number, flags in regular_files():
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & _PATH_ONLY:
            continue
        try:
            reopen(number, flags)
        except OSError:
            failed.append(number)
    return tuple(failed)


def regular_files() -> Iterator[tuple[int, int]]:
    """Yield the number and the flags of each descriptor of a regular file."""
    for number, mode in open_descriptors():
        if stat.S_ISREG(mode):
            with contextlib.suppress(OSError):
                yield number, fcntl.fcntl(number, fcntl.F_GETFL)


def open_descriptors() -> list[tuple[int, int]]:
    """Return the numbers of this process's open descriptors, each with its file's mode."""
    if not os.path.isdir(DESCRIPTORS):
        return []
    found = []
    for name in os.listdir(DESCRIPTORS):
        # One of them was open only to list the others.
        with contextlib.suppress(OSError):
            found.append((int(name), os.fstat(int(name)).st_mode))
    return found


def reopen(number: int, flags: int) -> None:
    """Open the regular file behind a descriptor again, with its number and position. Raise OSError if that fails."""
    # The link leads to the file itself, even if its name has changed or is gone.
    path = f"{DESCRIPTORS}/{number}"
    try:
        again = os.open(path, flags | os.O_CLOEXEC)
    except PermissionError:
        # Only the file's owner may use flags such as O_NOATIME.
        again = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.lseek(again, os.lseek(number, 0, os.SEEK_CUR), os.SEEK_SET)
        os.dup2(again, number, inheritable=os.get_inheritable(number))
    finally:
        os.close(again)
