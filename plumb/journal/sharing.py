"""A journal written by several ranks of one launch; the last of them to end restores the files.

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

_LOOK_SECONDS, _DAY_SECONDS, _KEPT_SECONDS = 0.1, 86_400.0, 30 * 86_400.0


class Share:
    """One process's part in the journal in `folder`; the watcher that outlives the process inherits the part.

    Args:
        folder: The journal's folder, the same for all ranks. `<folder>.users` and `<folder>.door` are lock files beside
            it: each rank holds the first one shared, and the second one while it enters or leaves.
        descriptor: Open file of `<folder>.users` that holds a part already; None takes one.

    """

    def __init__(self, folder: str, descriptor: int | None = None) -> None:
        self.folder = folder
        self.descriptor = (
            os.open(f"{folder}.users", os.O_RDWR | os.O_CREAT, 0o600) if descriptor is None else descriptor
        )

    def enter(self, make: Callable[[str], None]) -> None:
        """Take part. The first rank calls `make` for a new folder, in place of one that a killed launch left."""
        with self._door():
            if self._is_alone():
                if os.path.isdir(self.folder):
                    os.rename(self.folder, f"{self.folder}-left-{time.time_ns()}")
                os.mkdir(self.folder, 0o700)
                make(self.folder)
            fcntl.flock(self.descriptor, fcntl.LOCK_SH)

    def leave(self, wait_seconds: float, finish: Callable[[], None]) -> bool:
        """End this part, and call `finish` if it was the last one.

        Args:
            wait_seconds: Seconds to wait for the other ranks to leave first.
            finish: Function that restores the files.

        Returns:
            Whether this was the last part.

        """
        give_up_at = time.monotonic() + wait_seconds
        while True:
            with self._door():
                if self._is_alone():
                    finish()
                    return True
                if time.monotonic() >= give_up_at:
                    fcntl.flock(self.descriptor, fcntl.LOCK_UN)
                    return False
                fcntl.flock(self.descriptor, fcntl.LOCK_SH)
            time.sleep(_LOOK_SECONDS)

    def _is_alone(self) -> bool:
        # A failed attempt releases this process's own lock for a moment; the door keeps others from entering or
        # leaving.
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @contextlib.contextmanager
    def _door(self) -> Iterator[None]:
        door = os.open(f"{self.folder}.door", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(door, fcntl.LOCK_EX)
            yield
        finally:
            os.close(door)


def forget_old(root: Path) -> None:
    """Remove old remains of earlier tunings in the folder of journals: lock files of launches, and kept files.

    Lock files are not removed sooner, because another rank may come. Kept files are earlier states of files that other
    processes changed.
    """
    with contextlib.suppress(OSError):
        for path in root.iterdir():
            age_seconds = time.time() - path.stat().st_mtime
            if path.suffix in (".users", ".door") and age_seconds > _DAY_SECONDS:
                path.unlink()
            elif path.name.startswith("earlier-") and age_seconds > _KEPT_SECONDS:
                shutil.rmtree(path)
