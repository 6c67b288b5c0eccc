"""Objects that a loop may know by their identity: sentinels, instances like an enumeration's, parts of the dataset.

`if batch is SKIP` is true in the process that made the batch. A worker sends a copy, which the loop doesn't recognize.
"""

from __future__ import annotations

import pickle
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from plumb.instrument.byte_windows import PLAIN
from plumb.instrument.dataset_state import DatasetState

_WALK_SECONDS = 0.1
# Objects that samples set up later are found by repeated walks, in batches 1, 2, 4 and so on, within this share of the
# time.
_SHARE = 0.005
# Largest number of values to check in a batch, and depth of an object's attributes.
_MOST_VALUES, _DEEPEST = 10_000, 5
_MOST_RECENT = 64
_BY_NAME = (type, FunctionType, BuiltinFunctionType, MethodType, ModuleType, np.generic, np.dtype, torch.dtype)
_ARRAYS = (torch.Tensor, np.ndarray)
_COMPARED_BY_VALUE = frozenset((*PLAIN, list, tuple, dict, set, frozenset, *_ARRAYS))
_BY_IDENTITY: Any = object.__eq__


class KnownObjects:
    """Search for objects in batches that lie in what the samples' code reads, or that occur repeatedly.

    Only objects that a copy can't replace are found: one that has a name (a global, an attribute, a variable of a
    closure), a tensor or an array, or one whose class compares by identity. An item of a collection that compares by
    value, such as the dictionary of one sample's labels, can be replaced by a copy.
    """

    def __init__(self, roots: tuple[Any, ...]) -> None:
        self._roots = roots
        self._places: dict[int, tuple[str, bool]] = {}
        self._recent: OrderedDict[int, Any] = OrderedDict()
        self._batches = 0
        self._seconds = 0.0
        self._begun_at = time.perf_counter()
        self._walk()

    def found_in(self, batch: Any) -> str:
        """Return in words which object in `batch` the loop may know by its identity; empty if there is none."""
        self._batches += 1
        is_due = not self._batches & (self._batches - 1)
        if is_due and self._seconds <= _SHARE * (time.perf_counter() - self._begun_at):
            self._walk()
        met: set[int] = set()
        level, left = [batch], _MOST_VALUES
        for _ in range(_DEEPEST):
            inner: list[Any] = []
            for value in level:
                kind = type(value)
                if (id(value) in self._places or kind not in _COMPARED_BY_VALUE) and id(value) not in met:
                    met.add(id(value))
                    place = self._place_of(value)
                    if place:
                        return place
                if kind is not torch.Tensor:
                    inner += [part for part in _parts_of(value) if type(part) not in PLAIN]
            left -= len(inner)
            level = inner[: max(left, 0)]
        return ""

    def _place_of(self, value: Any) -> str:
        kind = type(value)
        if isinstance(value, _BY_NAME) or kind in PLAIN or (kind is tuple and not value):
            return ""
        is_compared_by_identity = kind.__eq__ is _BY_IDENTITY
        place, has_name = self._places.get(id(value), ("", False))
        if place and (has_name or is_compared_by_identity or isinstance(value, _ARRAYS)):
            found = self._confirmed(value)
            if found:
                words = f"{found} itself" if has_name else f"a part of {found} itself"
                return "" if _is_same_when_sent(value) else words
        if is_compared_by_identity and not isinstance(value, _ARRAYS) and self._comes_again(value):
            return "" if _is_same_when_sent(value) else f"a {kind.__name__} that other batches hold, too"
        return ""

    def _confirmed(self, value: Any) -> str:
        """Return the place of a value if it is still there: an earlier object may be gone, and its id reused."""
        self._walk(value)
        return self._places.get(id(value), ("", False))[0]

    def _walk(self, wanted: Any = None) -> None:
        """Collect the present objects; of several at one place, only the first has the name.

        The id of a `wanted` value is unique, because the caller refers to it.
        """
        places: dict[int, tuple[str, bool]] = {}
        met: set[str] = set()

        def visit(value: Any, place: str) -> None:
            if not isinstance(value, MethodType):
                places.setdefault(id(value), (place, place not in met))
                met.add(place)

        begun = time.perf_counter()
        DatasetState(self._roots, visit=visit).look(_WALK_SECONDS, has_windows=False)
        self._seconds = time.perf_counter() - begun
        self._places = places

    def _comes_again(self, value: Any) -> bool:
        try:
            known: Any = weakref.ref(value)
        except TypeError:
            # A plain object has no parts that it would keep alive.
            known = (lambda: value) if type(value) is object else None
        if known is None:
            return False
        before = self._recent.pop(id(value), None)
        self._recent[id(value)] = known
        if len(self._recent) > _MOST_RECENT:
            self._recent.popitem(last=False)
        return before is not None and before() is value


def _parts_of(value: Any) -> Iterable[Any]:
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, Mapping):
        return list(value.values())
    attributes = None if isinstance(value, (*_ARRAYS, *_BY_NAME)) else getattr(value, "__dict__", None)
    return list(attributes.values()) if type(attributes) is dict else ()


def _is_same_when_sent(value: Any) -> bool:
    """Return whether a value sent to another process arrives as the existing one there, as enumerations' members do.

    Values that can't be sent don't count here: sending them fails with a reason.
    """
    if isinstance(value, _ARRAYS):
        return False
    try:
        return pickle.loads(pickle.dumps(value)) is value
    except Exception:
        return True
