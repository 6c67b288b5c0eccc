"""Which files the script wrote while it was tuned: those that Python opened, and those that changed in its folders."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ENTRIES_AT_MOST = 20_000


class Writes:
    """Notes every file that this process opens for writing, from construction on.

    Libraries that write from C++, as `torch.save` does, raise no audit event; `files()` finds theirs by looking for
    changed files in the folders that the script works in.
    """

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = folders
        self._opened: set[str] = set()
        self._since_seconds = time.time()
        self._owner = os.getpid()
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            path = arguments[0]
            if isinstance(path, (str, bytes)) and os.getpid() == self._owner:
                self._opened.add(os.path.abspath(os.fsdecode(path)))

    def files(self) -> list[str]:
        """The paths that were written and still exist, sorted; scratch files and byte code are left out."""
        found = {path for path in self._opened if self._was_written(path)}
        for folder in self._folders:
            found |= self._changed_in(folder)
        return sorted(path for path in found if not _is_scratch(path))

    def _was_written(self, path: str) -> bool:
        try:
            return os.path.isfile(path) and os.stat(path).st_mtime >= self._since_seconds - 0.01
        except OSError:
            return False

    def _changed_in(self, folder: Path) -> set[str]:
        changed: set[str] = set()
        seen = 0
        for parent, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
            changed.update(path for path in (os.path.join(parent, name) for name in files) if self._was_written(path))
            seen += len(files)
            if seen > _ENTRIES_AT_MOST:
                break
        return changed


def _is_scratch(path: str) -> bool:
    in_temporary_folder = path.startswith(os.path.realpath(tempfile.gettempdir()) + os.sep)
    in_working_folder = path.startswith(os.getcwd() + os.sep)
    return (
        path.startswith(("/dev/", "/proc/", "/sys/"))
        or "/__pycache__/" in path
        or (in_temporary_folder and not in_working_folder)
    )
