"""Recording of the files that Python code opens, with their state just before."""

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

from plumb.host.read_counter import ReadCounter

_SYSTEM = ("/proc/", "/dev/", "/sys/")
_CODE = (".py", ".pyc", ".so")
_MISSING = -1
# A file may be read twice, for its kind and for its content, and a few bytes come from pipes and clocks.
_TIMES_READ, _BYTES_OF_NO_FILE = 2, 256


@dataclass(frozen=True)
class OpenedFile:
    """A file by its absolute path; `changed_ns` and `size_bytes` are -1 if there is no such file."""

    path: bytes
    changed_ns: int
    size_bytes: int

    @property
    def is_unchanged(self) -> bool:
        """True if the file is unchanged since then."""
        return _look(self.path) == self

    def looked_at(self) -> OpenedFile:
        """Return the file's present state."""
        return _look(self.path) or self


class _Listening(threading.local):
    files: dict[bytes, OpenedFile] | None = None


_listening = _Listening()
_libraries = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_hooks: list[Any] = []


@contextmanager
def opened_files() -> Iterator[ValuesView[OpenedFile]]:
    """Yield the files that this thread opens for reading in the context, each once; contexts may be nested.

    A missing file counts too, because the code might act differently if it existed. Left out are the code of libraries,
    other than regular files, and files opened by code that is not Python's, such as `cv2.imread`.
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
    """Return whether `read` reads more from files than those that Python opens contain; changes would be missed.

    Each argument is read twice, because the first time code and caches are loaded, which don't count.

    Args:
        read: Function to try.
        arguments: Arguments for it.
        waits: Whether it waits for something, which may be a server if it opens no file.
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
    # Every audit event of the process calls this, and most of them must cost only the first comparison.
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
    """Return the present state of a path; None for anything but a regular or missing file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return OpenedFile(path, _MISSING, _MISSING)
    return OpenedFile(path, status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None
