"""What several ranks of one launch share, above all their journal: the last of them to end restores the files.

With one journal per rank, a rank would keep and restore what another rank has already changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_LOOK_SECONDS, _KEPT_SECONDS = 0.1, 30 * 86_400.0
_USERS, _DOOR = ".users", ".door"


class Together:
    """One process's part in something that the ranks of a launch share, named by a path; the last one out ends it.

    Args:
        path: Name of the shared thing, the same for all ranks. `<path>.users` and `<path>.door` are lock files beside
            it: each rank holds the first one shared, and the second one while it enters or leaves. The last rank to
            leave removes both.
        descriptor: Open file of `<path>.users` that holds a part already; None if `enter` is to take one.

    """

    def __init__(self, path: str, descriptor: int | None = None) -> None:
        self.path = path
        self.descriptor = descriptor

    def enter(self, begin: Callable[[], None]) -> None:
        """Take part. The first rank calls `begin` before another one can enter."""
        with _door(self.path):
            # Opened behind the door, because whoever leaves as the last one removes the file.
            self.descriptor = os.open(self.path + _USERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if self._is_alone():
                begin()
            fcntl.flock(self.descriptor, fcntl.LOCK_SH)

    def leave(self, wait_seconds: float, finish: Callable[[], None]) -> bool:
        """End this part, and call `finish` if it was the last one.

        Args:
            wait_seconds: Seconds to wait for the other ranks to leave first.
            finish: Function that ends what was shared.

        Returns:
            Whether this was the last part.

        """
        assert self.descriptor is not None
        give_up_at = time.monotonic() + wait_seconds
        while True:
            with _door(self.path):
                if _is_another(self.descriptor, self.path + _USERS):
                    # This part was ended, as the last one, by the process from which this one inherited it; what is
                    # there now belongs to the next launch.
                    return False
                if self._is_alone():
                    try:
                        finish()
                    finally:
                        _remove_locks(self.path)
                    return True
                if time.monotonic() >= give_up_at:
                    fcntl.flock(self.descriptor, fcntl.LOCK_UN)
                    return False
                fcntl.flock(self.descriptor, fcntl.LOCK_SH)
            time.sleep(_LOOK_SECONDS)

    def close(self) -> None:
        """Close the lock file, which ends this part unless another process has inherited it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def _is_alone(self) -> bool:
        # A failed attempt releases this process's own lock for a moment; the door keeps others from entering or
        # leaving.
        assert self.descriptor is not None
        return _lock_at_once(self.descriptor)


class Share(Together):
    """One process's part in the journal in the folder `path`; the watcher that outlives it inherits the part."""

    def enter_journal(self, make: Callable[[str], None]) -> None:
        """Take part. The first rank calls `make` for a new folder, in place of one that a killed launch left."""

        def begin() -> None:
            if os.path.isdir(self.path):
                os.rename(self.path, f"{self.path}-left-{time.time_ns()}")
            os.mkdir(self.path, 0o700)
            make(self.path)

        self.enter(begin)


def forget_old(root: Path) -> None:
    """Remove remains of earlier tunings in the folder of journals: lock files of killed launches, and old kept files.

    Kept files are earlier states of files that other processes changed.
    """
    remove_killed(root)
    with contextlib.suppress(OSError):
        for path in root.glob("earlier-*"):
            if time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                shutil.rmtree(path)


def remove_killed(folder: Path, end: Callable[[Path], None] = lambda path: None) -> None:
    """Remove the lock files in `folder` of launches of which no rank lives any more.

    Args:
        folder: Folder of what launches share.
        end: Called with the path that a launch shared, while no other launch can begin on it.

    """
    with contextlib.suppress(OSError):
        shared = {path.with_suffix("") for path in folder.iterdir() if path.suffix in (_USERS, _DOOR)}
        for path in sorted(shared):
            _remove_if_killed(path, end)


def _remove_if_killed(path: Path, end: Callable[[Path], None]) -> None:
    with contextlib.suppress(OSError), _door(str(path), waits=False):
        users = os.open(f"{path}{_USERS}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _lock_at_once(users):
                end(path)
                _remove_locks(str(path))
        finally:
            os.close(users)


def _remove_locks(path: str) -> None:
    """Remove the lock files; the caller holds the door, and is the only user."""
    for suffix in (_USERS, _DOOR):
        with contextlib.suppress(OSError):
            os.unlink(path + suffix)


@contextlib.contextmanager
def _door(path: str, waits: bool = True) -> Iterator[None]:
    """Hold the door of what is shared at `path`. Raises BlockingIOError if another has it and `waits` is False."""
    while True:
        door = os.open(path + _DOOR, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(door, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            # The process that held it before may have been the last one out, and have removed it: others would not
            # meet at a file without a name.
            if os.path.exists(path + _DOOR) and not _is_another(door, path + _DOOR):
                yield
                return
        finally:
            os.close(door)


def _is_another(descriptor: int, path: str) -> bool:
    """Return whether the file at `path`, if there is one, is not the open one."""
    try:
        return not os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _lock_at_once(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
