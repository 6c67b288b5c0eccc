"""Audit events of this process, turned into entries of the journal: every change of a file that Python itself makes."""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from plumb.journal import records, temporary_folders, writers
from plumb.journal.change_recorder import LARGE_BYTES, ChangeRecorder

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_SQLITE = ("sqlite3.dbapi2", "sqlite3")

_recorder: ChangeRecorder | None = None


def start(folder: str) -> ChangeRecorder:
    """Record what this process, and those forked from it, do to files, in the journal in `folder`.

    A process has one recorder: a second one would note part of the changes, under the same names as the first.
    """
    global _recorder
    if _recorder is not None and _recorder.folder == folder:
        return _recorder
    with open(os.path.join(folder, records.SETTINGS), encoding="utf-8") as file:
        settings = json.load(file)
    _recorder = ChangeRecorder(folder, settings["ignored"])
    hook = _Hook(_recorder)
    sys.addaudithook(hook)
    for name in _SQLITE:
        if name in sys.modules:
            hook.install_in(sys.modules[name])
    writers.install(_recorder, {_SQLITE[0]: hook.install_in})
    temporary_folders.install(_recorder)
    return _recorder


class _Hook:
    """Audit hook: one dictionary lookup for events that don't matter, and never an exception.

    Audit hooks can't be removed, and Python raises their exceptions in the user's code, at the place of the event.
    """

    def __init__(self, recorder: ChangeRecorder) -> None:
        self._recorder = recorder
        self._local = threading.local()
        self._actions: dict[str, Callable[[tuple[Any, ...]], None]] = {
            "ctypes.dlsym": self._looked_up,
            "open": self._opened,
            "os.chmod": lambda event: self._status(event[0], event[2]),
            "os.chown": lambda event: self._status(event[0], event[3]),
            "os.link": self._linked,
            "os.mkdir": lambda event: self._recorder.making_folder(_located(event[0], event[2])),
            "os.remove": lambda event: self._recorder.removing(_located(event[0], event[1])),
            "os.rename": self._renamed,
            "os.rmdir": lambda event: self._recorder.removing_folder(_located(event[0], event[1])),
            "os.symlink": lambda event: self._recorder.making_folder(_located(event[1], event[2])),
            "os.truncate": lambda event: self._recorder.writing(_located(event[0])),
            "os.utime": lambda event: self._status(event[0], event[3]),
            "os.setxattr": lambda event: self._status(event[0], -1),
            "os.system": lambda event: self._recorder.note_program([event[0]]),
            "os.posix_spawn": lambda event: self._recorder.note_program(event[1]),
            "os.exec": lambda event: self._recorder.note_program(event[1], stays=True),
            "sqlite3.connect": self._connecting,
            "subprocess.Popen": lambda event: self._recorder.note_program(_words(event[1])),
            "tempfile.mkdtemp": lambda event: self._made_scratch(event[0]),
            "tempfile.mkstemp": lambda event: self._made_scratch(event[0]),
        }

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        action = self._actions.get(event)
        if action is None or getattr(self._local, "is_busy", False):
            return
        # Events of the journal's own file operations are not the script's.
        self._local.is_busy = True
        try:
            action(arguments)
        except Exception:
            # For example, an invalid path, for which the script's own operation fails too. No error of the journal may
            # be raised in the user's code; a missed change is found when the folders are compared.
            pass
        finally:
            self._local.is_busy = False

    def _opened(self, event: tuple[Any, ...]) -> None:
        path, _, flags = event
        if not isinstance(flags, int) or not flags & _WRITING or isinstance(path, int) or path is None:
            return
        name = _located(path)
        if not os.path.isdir(name):
            self._recorder.writing(
                name, appends=bool(flags & os.O_APPEND) and not flags & os.O_TRUNC, replaces=_is_replaced(flags)
            )

    def _looked_up(self, event: tuple[Any, ...]) -> None:
        for name in event:
            if isinstance(name, (str, bytes)):
                self._recorder.note_c_function(os.fsdecode(name))

    def _renamed(self, event: tuple[Any, ...]) -> None:
        self._recorder.moving(_located(event[0], event[2]), _located(event[1], event[3]))

    def _linked(self, event: tuple[Any, ...]) -> None:
        self._recorder.linking(_located(event[0], event[2]), _located(event[1], event[3]))

    def _status(self, path: Any, folder: int) -> None:
        self._recorder.changing_status(_located(path, folder))

    def _connecting(self, event: tuple[Any, ...]) -> None:
        path = writers.database_file(event[0])
        if path is None:
            return
        # A large database is kept when it is first written, if its statements are visible, because many are only read.
        self._local.database = path if getattr(self._local, "is_seen", False) and _is_large(path) else None
        if self._local.database is None:
            self._keep_database(path)

    def _see_statements(self, connect: Callable[..., Any]) -> Callable[..., Any]:
        """Return a replacement of `sqlite3.connect` that keeps a large database before its first writing statement."""

        @functools.wraps(connect)
        def seeing(*arguments: Any, **keywords: Any) -> Any:
            self._local.is_seen, self._local.database = True, None
            try:
                connection = connect(*arguments, **keywords)
            finally:
                self._local.is_seen = False
            path = self._local.database
            if path is not None:

                def executing(statement: str) -> None:
                    if writers.database_writes(statement):
                        connection.set_trace_callback(None)
                        self._keep_database(path)

                connection.set_trace_callback(executing)
            return connection

        return seeing

    def install_in(self, sqlite: ModuleType) -> None:
        """Follow the statements of all connections that the module makes from now on."""
        setattr(sqlite, "connect", self._see_statements(sqlite.connect))  # noqa: B010

    def _keep_database(self, path: str) -> None:
        self._recorder.opening_database(path, [f"{path}{end}" for end in ("-journal", "-wal", "-shm")])

    def _made_scratch(self, path: Any) -> None:
        if temporary_folders.goes_by_itself(os.fsdecode(path), sys._getframe(1)):
            self._recorder.note_scratch(os.fsdecode(path))


def _is_large(path: str) -> bool:
    try:
        return os.stat(path).st_size > LARGE_BYTES
    except OSError:
        return False


def _is_replaced(flags: int) -> bool:
    return flags & (os.O_TRUNC | os.O_CREAT) == os.O_TRUNC | os.O_CREAT


def _located(path: Any, folder: int = -1) -> str:
    """Return the absolute path in an event, which may be an open file or a name relative to an open folder."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    name = os.fsdecode(path)
    if os.path.isabs(name):
        return name
    return os.path.join(os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd(), name)


def _words(arguments: Any) -> list[Any]:
    return [arguments] if isinstance(arguments, (str, bytes, os.PathLike)) else list(arguments)
