"""Loaders whose files the script is about to remove, so that they must be measured before.

A short script makes its data in a temporary folder, reads them once or twice, and removes them at its end.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

# This many of a loader's files are enough to locate its data.
_FILES_AT_MOST = 1000


class LoaderFiles:
    """Files that loaders have opened in this process, by the loaders' names."""

    def __init__(self) -> None:
        self._files: dict[str, set[str]] = {}
        self._is_reading = False

    @contextlib.contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Record the files that are opened in the context as those of the loader called `name`."""
        from plumb.instrument.opened_files import opened_files

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

        Files opened by workers are not recorded here, so one sample is read to find them. If a dataset itself removes
        what it has read, the answer is False, because it can make its files again.
        """
        if self._is_reading:
            return False
        if loader.num_workers and not self._files.get(name):
            self._read_one(name, loader)
        files = self._files.get(name)
        return bool(files) and all(file == path or file.startswith(path + os.sep) for file in files or ())

    def _read_one(self, name: str, loader: DataLoader[Any]) -> None:
        from plumb.instrument.rng_state import restored_generators

        self._files[name] = set()
        # The user's code may raise any error, and the script did not request this sample.
        with contextlib.suppress(Exception), restored_generators(), self.noted(name):
            loader.dataset[next(iter(loader.sampler))]


def listen(removing: Callable[[str], None]) -> None:
    """Call `removing` with the path of each file or folder that this process, not its forks, is about to remove.

    Removals during such a call are left out, because plumb removes files of its own.
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
