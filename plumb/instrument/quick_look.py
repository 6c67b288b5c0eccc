"""Quick check, in microseconds, of what samples usually write to: attributes, collections, plain globals."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import CellType, FunctionType, ModuleType
from typing import Any

import torch

from plumb.instrument.byte_windows import PLAIN, array_of, brief
from plumb.instrument.callee import is_user_class
from plumb.instrument.code_names import names_of
from plumb.instrument.dataset_state import DatasetState
from plumb.instrument.hidden_progress import progress_of
from plumb.instrument.object_parts import attributes_of, scripted_attributes
from plumb.instrument.value_kinds import ValueKind, is_transform, kind_of

_MOST_ENTRIES, _MOST_INSIDE = 300, 40
_SMALL, _SMALL_BYTES = 16, 4096
_COLLECTIONS = (list, dict, set, deque, bytearray)
# An entry that differs this often without a lasting change is not checked any more.
_MOST_IN_VAIN = 2
_WALK_SECONDS = 0.1


class QuickLook:
    """Check whether some values may have changed since the last call.

    It covers attributes of the user's objects and classes, and plain global values: what they refer to, and not what is
    inside. For collections it compares the lengths; for small dictionaries and arrays, the content; for tensors, the
    versions.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        self._entries: list[tuple[Mapping[str, Any], str]] = []
        self._sized: list[Any] = []
        self._inside: list[Callable[[], Any]] = []
        for value in values:
            self._add(value)
        del self._entries[_MOST_ENTRIES:], self._sized[_MOST_ENTRIES:], self._inside[_MOST_INSIDE:]
        self._in_vain: dict[int, int] = {}
        self._before = self.sights()
        self._differing: list[int] = []

    def has_changed(self) -> bool:
        """Return whether anything differs from the previous call."""
        before, self._before = self._before, self.sights()
        if before == self._before:
            self._differing = []
            return False
        pairs = enumerate(zip(before, self._before, strict=True))
        self._differing = [place for place, (one, other) in pairs if one != other and self._in_vain.get(place, 0) >= 0]
        return any(self._in_vain.get(place, 0) < _MOST_IN_VAIN for place in self._differing)

    def absorb(self) -> None:
        """Take the present state as the one to compare with."""
        self._before = self.sights()

    def was_in_vain(self) -> None:
        """Record that the differences were no lasting change, so that they are soon not checked any more."""
        for place in self._differing:
            self._in_vain[place] = self._in_vain.get(place, 0) + 1

    def sights(self) -> list[Any]:
        """Return a summary of the present state, to be compared with a later one."""
        values = [names.get(name) for names, name in self._entries]
        seen = [value if type(value) in PLAIN else id(value) for value in values]
        return [*seen, *map(len, self._sized), *(look() for look in self._inside)]

    def _add(self, value: Any) -> None:
        kind = kind_of(value)
        if isinstance(value, _COLLECTIONS):
            self._sized.append(value)
            if type(value) is dict and len(value) <= _SMALL:
                self._inside.append(partial(_values_of, value))
        elif kind is ValueKind.ARRAY:
            self._inside += _look_inside(value)
        elif kind is ValueKind.PROGRESS:
            self._inside.append(partial(progress_of, value))
        elif kind in (ValueKind.OBJECT, ValueKind.STEP) and not is_transform(value):
            own = getattr(value, "__dict__", None)
            self._entries += [(own, name) for name in attributes_of(value)] if type(own) is dict else []
            if type(own) is dict:
                self._sized.append(own)
            if isinstance(value, torch.jit.ScriptModule):
                self._inside.append(partial(scripted_attributes, value))
        elif kind is ValueKind.CLASS and is_user_class(value):
            members = vars(value)
            self._entries += [(members, name) for name, item in members.items() if _is_value(name, item)]
        elif kind is ValueKind.FUNCTION:
            names = {path[0] for path in names_of(value.__code__).paths}
            found = value.__globals__
            self._entries += [(found, name) for name in names if name in found and type(found[name]) in PLAIN]
            self._inside += [partial(_content_of, cell) for cell in value.__closure__ or ()]


def _content_of(cell: CellType) -> Any:
    try:
        content = cell.cell_contents
    except ValueError:  # not set yet
        return None
    return brief(content)


def _values_of(value: dict[Any, Any]) -> tuple[Any, ...]:
    return tuple([item if type(item) in PLAIN else id(item) for item in value.values()])


def _look_inside(array: Any) -> list[Callable[[], Any]]:
    """Return functions that summarize an array's content where that takes no time: its version, or a digest."""
    if isinstance(array, torch.Tensor):
        return [] if array.is_inference() else [lambda: array._version]
    return [lambda: _digest(array)] if _digest(array) is not None else []


def _digest(buffer: Any) -> int | None:
    """Return a digest of a small array or buffer; None for others.

    No view of it is kept, because a buffer with views can be neither closed nor resized.
    """
    content = array_of(buffer)
    if content is None or content.nbytes > _SMALL_BYTES or content.dtype.hasobject:
        return None
    return hash(content.tobytes())


def _is_value(name: str, item: Any) -> bool:
    is_code = isinstance(item, (FunctionType, ModuleType, type, classmethod, staticmethod, property))
    return not is_code and not (name.startswith("__") and name.endswith("__"))


def quick_look_at(roots: Iterable[Any]) -> QuickLook:
    """Return a quick check of everything that some objects, and the code reachable from them, refer to."""
    met: list[Any] = []
    DatasetState(roots, visit=lambda value, _: met.append(value)).look(_WALK_SECONDS, has_windows=False)
    return QuickLook(met)
