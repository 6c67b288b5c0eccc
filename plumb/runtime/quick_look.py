"""A look at what samples usually write to, in microseconds: attributes, lengths of collections, plain globals."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from types import FunctionType, ModuleType
from typing import Any

from plumb.runtime.code_names import names_of
from plumb.runtime.object_parts import attributes_of
from plumb.runtime.value_kinds import Kind, is_transform, kind_of
from plumb.runtime.windows import PLAIN
from plumb.trace.expand import is_user_class

_MOST_ENTRIES = 300
_COLLECTIONS = (list, dict, set, deque, bytearray)
# An entry that differs so often, though nothing has changed for good, is looked at no more.
_MOST_IN_VAIN = 2


class QuickLook:
    """Says whether any of some values may have been changed since it was last asked.

    Looked at are attributes of objects and classes of the user's, lengths of collections, and plain global values: what
    they refer to, and not what is inside.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        self._entries: list[tuple[Mapping[str, Any], str]] = []
        self._sized: list[Any] = []
        for value in values:
            self._add(value)
        del self._entries[_MOST_ENTRIES:], self._sized[_MOST_ENTRIES:]
        self._in_vain: dict[int, int] = {}
        self._before = self._sights()
        self._differing: list[int] = []

    def has_changed(self) -> bool:
        """Return whether anything is not what it was at the call before."""
        before, self._before = self._before, self._sights()
        if before == self._before:
            self._differing = []
            return False
        pairs = enumerate(zip(before, self._before, strict=True))
        self._differing = [place for place, (one, other) in pairs if one != other and self._in_vain.get(place, 0) >= 0]
        return any(self._in_vain.get(place, 0) < _MOST_IN_VAIN for place in self._differing)

    def was_in_vain(self) -> None:
        """Take note that what has changed was nothing that lasts: soon it is no longer looked at."""
        for place in self._differing:
            self._in_vain[place] = self._in_vain.get(place, 0) + 1

    def _sights(self) -> list[Any]:
        values = [names.get(name) for names, name in self._entries]
        return [value if type(value) in PLAIN else id(value) for value in values] + list(map(len, self._sized))

    def _add(self, value: Any) -> None:
        kind = kind_of(value)
        if isinstance(value, _COLLECTIONS):
            self._sized.append(value)
        elif kind in (Kind.OBJECT, Kind.STEP) and not is_transform(value):
            own = getattr(value, "__dict__", None)
            self._entries += [(own, name) for name in attributes_of(value)] if type(own) is dict else []
            if type(own) is dict:
                self._sized.append(own)
        elif kind is Kind.CLASS and is_user_class(value):
            members = vars(value)
            self._entries += [(members, name) for name, item in members.items() if _is_value(name, item)]
        elif kind is Kind.FUNCTION:
            names = {path[0] for path in names_of(value.__code__).paths}
            found = value.__globals__
            self._entries += [(found, name) for name in names if name in found and type(found[name]) in PLAIN]


def _is_value(name: str, item: Any) -> bool:
    is_code = isinstance(item, (FunctionType, ModuleType, type, classmethod, staticmethod, property))
    return not is_code and not (name.startswith("__") and name.endswith("__"))
