"""Which files some code reads: those that Python opens, with what they were like just before."""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator, ValuesView
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from plumb.profile.storage import ReadCounter

_SYSTEM = ("/proc/", "/dev/", "/sys/")
_CODE = (".py", ".pyc", ".so")
_MISSING = -1
# A file may be read twice, for its kind and for its content, and a few bytes come from pipes and clocks.
_TIMES_READ, _BYTES_OF_NO_FILE = 2, 256


@dataclass(frozen=True)
class OpenedFile:
    """A file by its absolute path; `changed_ns` and `size_bytes` are -1 where there is none."""

    path: bytes
    changed_ns: int
    size_bytes: int

    @property
    def is_unchanged(self) -> bool:
        """Whether the file is still what it was."""
        return _look(self.path) == self

    def looked_at(self) -> OpenedFile:
        """Return the file as it is now."""
        return _look(self.path) or self


class _Listening(threading.local):
    files: dict[bytes, OpenedFile] | None = None


_listening = _Listening()
_libraries = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_hooks: list[Any] = []


@contextmanager
def opened_files() -> Iterator[ValuesView[OpenedFile]]:
    """The files that this thread opens for reading inside, each once; blocks may be nested.

    A file that is missing counts too: were it there, the code might do something else. Left out are the code of
    libraries, what is no regular file, and what is opened by code that is not Python's, such as `cv2.imread`.
    """
    if not _hooks:
        _hooks.append(_hear)
        sys.addaudithook(_hear)
    files: dict[bytes, OpenedFile] = {}
    outer, _listening.files = _listening.files, files
    try:
        yield files.values()
    finally:
        _listening.files = outer
        if outer is not None:
            outer.update(files | outer)


def reads_unseen(read: Callable[[Any], Any], arguments: Iterable[Any], waits: bool) -> bool:
    """Whether `read` takes more from files than those that Python opens can give it, so that changes would be missed.

    `waits` says that it waits for something; where it opens no file meanwhile, that may be a server. Each argument is
    read twice: first code and caches are loaded, which do not count.
    """
    for argument in arguments:
        read(argument)
        with opened_files() as files, ReadCounter() as counter:
            before = counter.bytes_read()
            read(argument)
            after = counter.bytes_read()
        if waits and not files:
            return True
        given = sum(max(file.size_bytes, 0) for file in files)
        if before is not None and after is not None and after - before > _TIMES_READ * given + _BYTES_OF_NO_FILE:
            return True
    return False


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    # Every audit event of the process comes by: the first comparison is all that most of them cost.
    if event == "open" and _listening.files is not None:
        _note(_listening.files, arguments[0], arguments[2])


def _note(files: dict[bytes, OpenedFile], path: Any, flags: Any) -> None:
    if not isinstance(path, (str, bytes)) or not isinstance(flags, int) or flags & os.O_ACCMODE != os.O_RDONLY:
        return
    name = os.path.abspath(os.fsdecode(path))
    if name.startswith(_SYSTEM) or (name.endswith(_CODE) and name.startswith(_libraries)):
        return
    whole = os.fsencode(name)
    file = None if whole in files else _look(whole)
    if file is not None:
        files[whole] = file


def _look(path: bytes) -> OpenedFile | None:
    """What a path leads to; None for something that is no regular file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return OpenedFile(path, _MISSING, _MISSING)
    return OpenedFile(path, status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None
