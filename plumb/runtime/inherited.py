"""What a forked worker would inherit from the main process and must not use: open handles, held locks, threads.

A file's position is shared by all processes that inherit it, a database's connection or a lock has a state that the
others do not see change, and threads stay behind in the parent.
"""

from __future__ import annotations

import io
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import torch

_OBJECTS, _ELEMENTS, _DEPTH = 2000, 16, 6
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
# Module, class, and what it is; a class that was never imported has no objects. Those of h5py are false once closed.
_CLASSES = (
    ("sqlite3", "Connection", "a connection to SQLite"),
    ("lmdb", "Environment", "an open LMDB environment"),
    ("h5py", "File", "an open h5py file"),
    ("h5py", "Group", "an open h5py file"),
    ("h5py", "Dataset", "an open h5py file"),
)
_PLAIN = (str, bytes, bytearray, int, float, complex, bool, type(None), type)


@dataclass(frozen=True)
class Handle:
    """Something of a dataset's that a fork would break: where it hangs, for people, and what it is."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.what} ({self.place})"


@dataclass(frozen=True)
class _Attribute:
    holder: Any
    name: str
    value: Any
    place: str


def handles(dataset: Any) -> tuple[Handle, ...]:
    """What hangs from a dataset's attributes, and from what these hold, that forked workers must not use."""
    found = ((attribute.place, _what(attribute.value)) for attribute in _attributes(dataset))
    return tuple(Handle(place, what) for place, what in found if what)


class OpenedHere:
    """Handles that a dataset opens in this process from now on, for as long as it has none: lazily, as a worker would.

    A worker that is forked must open its own: `put_back` makes the dataset forget those of this process.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._before = {(id(attribute.holder), attribute.name): attribute.value for attribute in _attributes(dataset)}

    def put_back(self) -> None:
        """Gives each attribute that has come to hold a handle the value that it had."""
        opened = [attribute for attribute in _attributes(self._dataset) if _what(attribute.value)]
        for attribute in opened:
            key = (id(attribute.holder), attribute.name)
            if attribute.holder is None or self._before.get(key) is attribute.value:
                continue
            if key in self._before:
                vars(attribute.holder)[attribute.name] = self._before[key]
            else:
                vars(attribute.holder).pop(attribute.name, None)


def _attributes(root: Any) -> Iterator[_Attribute]:
    """The attributes of `root` and of the objects that hang from it; elements of containers have no holder."""
    seen = {id(root)}
    waiting = [(root, type(root).__name__, 0)]
    while waiting and len(seen) < _OBJECTS:
        each, place, depth = waiting.pop()
        for holder, name, value, at in _children(each, place):
            yield _Attribute(holder, name, value, at)
            if id(value) not in seen and not isinstance(value, _PLAIN) and depth < _DEPTH and not _what(value):
                seen.add(id(value))
                waiting.append((value, at, depth + 1))


def _children(each: Any, place: str) -> Iterator[tuple[Any, str, Any, str]]:
    if isinstance(each, dict):
        elements = list(each.values())[:_ELEMENTS]
    elif isinstance(each, (list, tuple, set, frozenset)):
        elements = list(each)[:_ELEMENTS] if not isinstance(each, (list, tuple)) else list(each[:_ELEMENTS])
    else:
        own = getattr(each, "__dict__", None)
        if isinstance(own, dict):
            for name, value in list(own.items()):
                yield each, name, value, f"{place}.{name}"
        return
    for value in elements:
        yield None, "", value, place


def _what(value: Any) -> str:
    """What a value is that must not be inherited; empty for everything else."""
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
    for module, name, what in _CLASSES:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(value, kind):
            return what if module != "h5py" or value else ""
    return ""


def _is_held(lock: Any) -> bool:
    if hasattr(lock, "locked"):
        return bool(lock.locked())
    if not lock.acquire(blocking=False):
        return True
    lock.release()
    return False
