"""Search for objects that a forked worker would inherit and must not use: open handles, held locks, threads.

A file's position is shared by all processes that inherit it; the state of a database connection or of a lock changes
unseen by the others; and threads don't exist in a child.
"""

from __future__ import annotations

import fcntl
import io
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice
from types import ModuleType
from typing import Any

import torch

from plumb.instrument.dataset_state import DatasetState

_OBJECTS, _ELEMENTS, _DEPTH = 2000, 16, 6
_LOOK_SECONDS = 0.3
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
# Module, class, and description; a class that was never imported has no objects. h5py's objects are false once closed.
_CLASSES = (
    ("sqlite3", "Connection", "a connection to SQLite"),
    ("lmdb", "Environment", "an open LMDB environment"),
    ("h5py", "File", "an open h5py file"),
    ("h5py", "Group", "an open h5py file"),
    ("h5py", "Dataset", "an open h5py file"),
)
_SEQUENCES = (list, tuple, set, frozenset)
_PLAIN = (str, bytes, bytearray, int, float, complex, bool, type(None), type, ModuleType)


@dataclass(frozen=True)
class Handle:
    """An object in a dataset that a fork would break: its place for people, and what it is."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.what} ({self.place})"


def handles(dataset: Any) -> tuple[Handle, ...]:
    """Return the objects reachable from a dataset's attributes that forked workers must not use.

    Files of this host that are open for reading only are left out, because workers reopen them. Connections and
    environments of databases are also searched in everything that the samples' code refers to.
    """
    found = {
        id(value): Handle(place, what)
        for value, place in _hanging(dataset)
        if (what := _what(value)) and not (isinstance(value, io.IOBase) and _is_opened_again(value))
    }

    def visit(value: Any, place: str) -> None:
        if id(value) not in found and (what := _what_of_class(value)):
            found[id(value)] = Handle(place, what)

    DatasetState([dataset], visit=visit, everything=True).look(_LOOK_SECONDS, has_windows=False)
    return tuple(found.values())


class HandleSnapshot:
    """Handles that a dataset opens lazily in this process from now on, as it would in a worker.

    A forked worker must open its own: `put_back` makes the dataset forget those of this process.
    """

    def __init__(self, dataset: Any) -> None:
        self._before = [(each, _contents(each)) for each, _ in _hanging(dataset) if _is_known_whole(each)]

    def put_back(self) -> None:
        """Restore the attributes, or the elements, of each object that refers to a new handle.

        All of them are restored, because a handle often comes with another value that marks it as open, such as a
        process id.
        """
        for each, before in self._before:
            now = _contents(each)
            new = [value for key, value in now.items() if key not in before or before[key] is not value]
            if any(_what(value) for one in new for value, _ in _hanging(one)):
                _restore(each, before)


def _contents(each: Any) -> dict[Any, Any]:
    """Return an object's direct parts: attributes by their names, or the first elements by their places or keys."""
    if isinstance(each, dict):
        return dict(islice(each.items(), _ELEMENTS))
    if isinstance(each, _SEQUENCES):
        return dict(enumerate(islice(each, _ELEMENTS)))
    own = getattr(each, "__dict__", None)
    return dict(own) if isinstance(own, dict) else {}


def _is_known_whole(each: Any) -> bool:
    """Return whether all direct parts of an object are in its `_contents`, and can be restored."""
    if isinstance(each, (dict, list)):
        return len(each) <= _ELEMENTS
    return not isinstance(each, _SEQUENCES)


def _restore(each: Any, before: dict[Any, Any]) -> None:
    if isinstance(each, list):
        each[:] = before.values()
        return
    contents = each if isinstance(each, dict) else vars(each)
    for key in [key for key in contents if key not in before]:
        del contents[key]
    contents.update(before)


def _hanging(root: Any) -> Iterator[tuple[Any, str]]:
    """Yield `root`, its attributes and elements, and theirs, each with its path; nothing inside a handle."""
    seen = {id(root)}
    waiting = [(root, type(root).__name__, 0)]
    while waiting:
        each, place, depth = waiting.pop()
        yield each, place
        if depth > _DEPTH or _what(each):
            continue
        for name, value in _contents(each).items():
            if id(value) not in seen and not isinstance(value, _PLAIN) and len(seen) < _OBJECTS:
                seen.add(id(value))
                at = place if isinstance(each, (dict, *_SEQUENCES)) else f"{place}.{name}"
                waiting.append((value, at, depth + 1))


def _what(value: Any) -> str:
    """Return a description of a value that must not be inherited; empty for other values."""
    if isinstance(value, io.IOBase):
        is_file = isinstance(value, (io.FileIO, io.BufferedIOBase, io.TextIOWrapper))
        in_memory = isinstance(value, (io.BytesIO, io.StringIO))
        return "an open file" if is_file and not in_memory and not value.closed else ""
    if isinstance(value, socket.socket):
        return "an open socket" if value.fileno() >= 0 else ""
    if isinstance(value, _LOCKS):
        return "a lock that is held" if _is_held(value) else ""
    if isinstance(value, threading.Thread):
        return "a running thread" if value.is_alive() else ""
    if isinstance(value, Executor):
        return (
            "a pool that has started" if getattr(value, "_threads", None) or getattr(value, "_processes", None) else ""
        )
    if isinstance(value, torch.Tensor):
        return "a tensor on a CUDA device" if value.is_cuda else ""
    return _what_of_class(value)


def _what_of_class(value: Any) -> str:
    """Return a description of an object of one of the known classes that must not be inherited; else empty."""
    for module, name, what in _CLASSES:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(value, kind):
            return what if module != "h5py" or value else ""
    return ""


def _is_opened_again(file: Any) -> bool:
    """Return whether workers reopen a file: a file of this host that is open for reading only."""
    try:
        number = file.fileno()
        is_regular = stat.S_ISREG(os.fstat(number).st_mode)
        return is_regular and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def _is_held(lock: Any) -> bool:
    if hasattr(lock, "locked"):
        return bool(lock.locked())
    if not lock.acquire(blocking=False):
        return True
    lock.release()
    return False
