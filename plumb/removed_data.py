"""Loaders whose files the script is about to remove: afterwards nothing of them could be measured.

A short script makes its data in a temporary folder, reads them once or twice, and removes them where it ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

# So many of a loader's files tell where its data lie.
_FILES_AT_MOST = 1000


class LoaderFiles:
    """The files that loaders have opened in this process, by the loaders' names."""

    def __init__(self) -> None:
        self._files: dict[str, set[str]] = {}
        self._is_reading = False

    @contextlib.contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Take note of what is opened meanwhile, on behalf of the loader called `name`."""
        from plumb.runtime.opened import opened_files

        files = self._files.setdefault(name, set())
        outer, self._is_reading = self._is_reading, True
        try:
            with opened_files() as opened:
                yield
            if len(files) < _FILES_AT_MOST:
                files.update(os.fsdecode(file.path) for file in opened)
        finally:
            self._is_reading = outer

    def lie_in(self, path: str, name: str, loader: DataLoader[Any]) -> bool:
        """Return whether all files of a loader are `path` itself, or lie below it.

        What workers have opened is not known here: one sample is read for it. A dataset that removes what it has read
        itself has its files made anew.
        """
        if self._is_reading:
            return False
        if loader.num_workers and not self._files.get(name):
            self._read_one(name, loader)
        files = self._files.get(name)
        return bool(files) and all(file == path or file.startswith(path + os.sep) for file in files or ())

    def _read_one(self, name: str, loader: DataLoader[Any]) -> None:
        from plumb.profile.randomness import kept_generators

        self._files[name] = set()
        # The user's code may raise anything, and it is not the script that asks for this sample.
        with contextlib.suppress(Exception), kept_generators(), self.noted(name):
            loader.dataset[next(iter(loader.sampler))]


def listen(removing: Callable[[str], None]) -> None:
    """Call `removing` with the path of each file or folder that this process is about to remove, and not its forks.

    Calls that come while one is at work are left out: plumb removes files of its own.
    """
    owner, is_busy = os.getpid(), False

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal is_busy
        if event not in ("shutil.rmtree", "os.remove") or is_busy or os.getpid() != owner:
            return
        path, folder = arguments
        if not isinstance(path, (str, bytes, os.PathLike)) or (isinstance(folder, int) and folder >= 0):
            return
        is_busy = True
        try:
            removing(os.path.abspath(os.fsdecode(path)))
        finally:
            is_busy = False

    sys.addaudithook(hear)
