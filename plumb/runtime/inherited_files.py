"""The files that a forked process inherits: each is opened again, so that no two processes share a position in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from plumb.runtime.unsent import report_unsent_batches

DESCRIPTORS = "/proc/self/fd"
# A descriptor of this kind only names a file. Python doesn't have the flag everywhere.
_PATH_ONLY = getattr(os, "O_PATH", 0)


@dataclass(frozen=True)
class ReopeningInit:
    """A `worker_init_fn` that opens inherited files again, and then does what the user's does, if there is one.

    Picklable if the user's function is. In a worker that was not forked there is nothing to open.
    """

    then: Callable[[int], None] | None

    def __call__(self, worker_id: int) -> None:
        """Make the worker's files its own."""
        report_unsent_batches(worker_id)
        reopen_inherited_files()
        if self.then is not None:
            self.then(worker_id)


def reopen_inherited_files() -> tuple[int, ...]:
    """Open each regular file that is open for reading only once more, under its number and at its position.

    A forked process shares the position in a file with its parent: two that seek and read would read each other's
    bytes. Buffers of Python's and C's file objects stay valid, since they go with the position. A file that is open for
    writing, too, is left as it is: what is written goes to one place, as it does without plumb, and databases lock what
    they have open.

    Returns:
        The numbers of the files that could not be opened again, such as files that this user may not read any more.

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
    """Yield the number and the flags of each descriptor that leads to a regular file."""
    for number, mode in open_descriptors():
        if stat.S_ISREG(mode):
            with contextlib.suppress(OSError):
                yield number, fcntl.fcntl(number, fcntl.F_GETFL)


def open_descriptors() -> list[tuple[int, int]]:
    """Return the numbers of this process's open descriptors, each with the mode of what it leads to."""
    if not os.path.isdir(DESCRIPTORS):
        return []
    found = []
    for name in os.listdir(DESCRIPTORS):
        # One of them was only open for the list of all.
        with contextlib.suppress(OSError):
            found.append((int(name), os.fstat(int(name)).st_mode))
    return found


def reopen(number: int, flags: int) -> None:
    """Open the regular file behind a descriptor once more, under its number and at its position. Raises OSError."""
    # The link leads to the file itself, whatever its name leads to by now, and also if it has none any more.
    path = f"{DESCRIPTORS}/{number}"
    try:
        again = os.open(path, flags | os.O_CLOEXEC)
    except PermissionError:
        # Flags such as O_NOATIME are for the file's owner.
        again = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.lseek(again, os.lseek(number, 0, os.SEEK_CUR), os.SEEK_SET)
        os.dup2(again, number, inheritable=os.get_inheritable(number))
    finally:
        os.close(again)
