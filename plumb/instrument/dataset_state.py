"""State of everything that samples are made from: comparison of a dataset, and all that its code refers to, over time.

A check walks over what is reachable from the dataset, the nearest first: attributes, collections, transforms, classes,
functions with the globals and closures that they name. Small values are compared in each check; large collections and
arrays by probes and by a window that moves from check to check. Checked objects are not kept alive in between.
"""

from __future__ import annotations

import gc
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import islice
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch

from plumb.core.time_box import TimeBox, no_garbage_collection
from plumb.instrument.byte_windows import (
    PLAIN,
    array_of,
    array_probes,
    array_windows,
    brief,
    brief_by_value,
    item_windows,
    may_change,
)
from plumb.instrument.callee import is_user_class, is_user_code
from plumb.instrument.cleared_caches import times_cleared
from plumb.instrument.code_names import closed_over, globals_read, names_of, runs_unnamed
from plumb.instrument.found_change import Change, ValuePath, change_between
from plumb.instrument.hidden_progress import is_single_pass, progress_of
from plumb.instrument.large_values import Large, LargeValues
from plumb.instrument.object_parts import attributes_of, hidden_arrays, parts_of, process_generators, wrapped_values
from plumb.instrument.value_kinds import ValueKind, is_all_users, is_transform, kind_of

# Time limits of a check at an epoch's start, and of the first one, which only records the state; between two batches, a
# check is limited to these numbers of values.
EPOCH_SECONDS, FIRST_SECONDS = 0.1, 0.03
_NEAREST, _FURTHER = 250, 100
# Collections up to this size are checked item by item; in larger ones, this many items.
_SMALL, _PROBES = 64, 16
_MOST_WINDOWED = 100_000
_MOST_WINDOWS_OF_OBJECTS = 300
_PASSES_AT_FIRST = 6
# A value on the walk, how it was reached, and which part of that it is: `_ITSELF`, or its place in a collection.
Waiting = tuple[Any, ValuePath, Any]
_ITSELF: Any = object()
_CACHED: Any = type(lru_cache(len))
# Values as numbers are, unlike a mapped file.
_ARRAYS = (np.ndarray, torch.Tensor)
_MODULE_HOOKS = ("_forward", "_backward", "_state_dict", "_load_state", "_is_full_backward", "_non_persistent")


class DatasetState:
    """Comparison of everything reachable from some roots with its state at the previous check.

    With `by_value`, replacing an object by an equal one is no change. `generators` are the random generators that the
    last thorough check has met, `iterators` Python's own iterators, `functions` the user's functions, and `arrays`,
    with `by_value`, the arrays and buffers. `skips_shared` leaves out tensors and values in shared memory. `visit` is
    called with each value and its place. With `everything`, all that is reachable from the roots is checked, even if no
    code that was met reads it.
    """

    def __init__(
        self,
        roots: Iterable[Any],
        by_value: bool = False,
        skips_shared: bool = False,
        visit: Callable[[Any, str], None] | None = None,
        everything: bool = False,
    ) -> None:
        self._roots: list[Waiting] = []
        self._is_replaced = False
        self.follow(roots)
        self._known: dict[int, Any] = {}
        self._large_values = LargeValues(by_value)
        self._names: set[str] = set()
        self._reads_any = everything
        self._is_new = True
        self._queue: deque[Waiting] = deque()
        self._further: deque[Waiting] = deque()
        self._further_met: set[int] = set()
        self._visited: set[int] = set()
        self._changes: list[Change] = []
        self._alive: list[Any] = []
        self._is_quick = False
        self._has_windows = True
        self._visit = visit
        self._brief = brief_by_value if by_value else brief
        self._is_by_value = by_value
        self._skips_shared = skips_shared
        self.generators: list[Any] = []
        self.iterators: list[Any] = []
        self.functions: list[FunctionType] = []
        self.arrays: list[np.ndarray[Any, Any]] = []
        self.seconds = 0.0
        self._looks: dict[ValueKind, Callable[[Any, ValuePath], Any]] = {
            kind: getattr(self, f"_{kind.name.lower()}") for kind in ValueKind if kind is not ValueKind.OPAQUE
        }

    def follow(self, roots: Iterable[Any]) -> None:
        """Start at these roots from now on. A root that is another object than before is a change."""
        before = [root for root, *_ in self._roots]
        self._roots = [
            (root, ValuePath(hash(("root", place)), type(root).__name__), _ITSELF) for place, root in enumerate(roots)
        ]
        self._is_replaced |= bool(before) and list(map(id, before)) != [id(root) for root, *_ in self._roots]

    def look(
        self,
        seconds: float = EPOCH_SECONDS,
        has_windows: bool = True,
        window_seconds: float = math.inf,
        near: Sequence[float] = (),
    ) -> tuple[Change, ...]:
        """Return the changes since the previous check; the present state is the reference for the next one.

        Args:
            seconds: Time limit, in computing time. The rest is checked in later calls.
            has_windows: Whether parts of large values are checked, which may take all of the time.
            window_seconds: Time limit for these, within the other one.
            near: Places in lists and arrays, as shares of their lengths, whose parts come first.
        """
        with no_garbage_collection():
            return self._look(seconds, has_windows, window_seconds, near)

    def _look(
        self, seconds: float, has_windows: bool, window_seconds: float, near: Sequence[float]
    ) -> tuple[Change, ...]:
        begun = time.perf_counter()
        self._begin(is_quick=False)
        self._has_windows = has_windows
        box = TimeBox(seconds)
        for _ in range(_PASSES_AT_FIRST if self._is_new else 1):
            # The names that code reads are known once all code was met, so the first pass may have left out attributes.
            names = len(self._names)
            self._queue = deque(self._roots)
            met: set[int] = set()
            self._large_values.begin_walk()
            self._walk(self._queue, met, math.inf, box)
            if len(self._names) == names:
                break
        self._further, self._further_met = self._queue, met
        self._changes += self._large_values.go_on(TimeBox(min(window_seconds, box.seconds_left)), near)
        if self._is_new:
            self._changes.clear()
        elif self._is_replaced:
            self._changes.append(Change("what makes its samples"))
        self._is_replaced = False
        if self._changes:
            self._forget_what_was_not_visited()
        self._is_new = False
        return self._end(begun)

    def glance(self, only_nearest: bool = False) -> tuple[Change, ...]:
        """Return the changes in the nearest objects and in a further part, in well under a millisecond.

        Args:
            only_nearest: Check only what each glance checks; its reference is the previous glance.
        """
        if self._is_new:
            return self.look()
        with no_garbage_collection():
            return self._glance(only_nearest)

    def _glance(self, only_nearest: bool) -> tuple[Change, ...]:
        begun = time.perf_counter()
        self._begin(is_quick=True)
        self._has_windows = not only_nearest
        self._queue, met = deque(self._roots), set[int]()
        self._walk(self._queue, met, _NEAREST)
        if not only_nearest:
            if not self._further:
                self._further, self._further_met = self._queue, met
            self._queue = self._further
            self._walk(self._further, self._further_met, _FURTHER)
        return self._end(begun)

    def forget(self) -> None:
        """Forget the state, so that the next check only records it."""
        self._known.clear()
        self._large_values.forget()

    # ---- the walk

    def _begin(self, is_quick: bool) -> None:
        self._is_quick = is_quick
        self._has_windows = True
        self._changes = []
        self._visited.clear()
        if not is_quick:
            self.generators, self.iterators, self.functions, self.arrays = [], [], [], []
            self._large_values.begin_look()

    def _end(self, begun: float) -> tuple[Change, ...]:
        self._queue = deque()
        self._large_values.begin_walk()
        self._alive.clear()
        self.seconds = time.perf_counter() - begun
        return tuple(dict.fromkeys(self._changes))

    def _walk(self, queue: deque[Waiting], met: set[int], most: float, box: TimeBox | None = None) -> None:
        count = 0
        while queue and count < most:
            value, way, part = queue.popleft()
            # The object of a method may also be reached as a whole.
            identity = -id(value) if part is _ITSELF and way.is_receiver else id(value)
            if identity in met:
                continue
            met.add(identity)
            if part is not _ITSELF:
                way = way.to(part)
            if self._visit is not None:
                self._visit(value, way.place)
            look = self._looks.get(kind_of(value))
            if look is None:
                continue
            count += 1
            try:
                sight = look(value, way)
            except (RuntimeError, AttributeError, TypeError, ValueError):
                # Another thread may be changing it, or its class behaves unusually: skipped this time.
                continue
            if sight is not None:
                self._compare(value, way, sight)
            if not count % 64 and box is not None and box.is_over:
                return

    def _compare(self, value: Any, way: ValuePath, sight: Any) -> None:
        before = self._known.get(way.key)
        self._known[way.key] = sight
        self._visited.add(way.key)
        if before is None or before == sight:
            return
        if not isinstance(sight, dict):
            self._changes.append(change_between(before, sight, value, way.place, way.is_quiet or way.is_scratch))
            return
        # For functions, classes and objects, the name that differs is part of the place.
        for name in before | sight:
            now = sight.get(name, self)
            if before.get(name, self) != now:
                owner = value if isinstance(value, type) else type(value)
                place = str(name) if kind_of(value) is ValueKind.FUNCTION else f"{owner.__name__}.{name}"
                is_object = self._is_by_value and type(now) not in PLAIN and now not in _ARRAYS
                is_scratch = is_transform(value)
                self._changes.append(Change(place, is_scratch=is_scratch, is_name=True, is_object=is_object))

    def _forget_what_was_not_visited(self) -> None:
        """Forget values not visited this time, whose simultaneous change would look like a later one."""
        self._known = {key: sight for key, sight in self._known.items() if key in self._visited}
        self._large_values.forget_all_but(self._visited)

    def _windowed_items(self, value: Any, way: ValuePath) -> None:
        part, count, is_plain = item_windows(value)
        # With too many objects, two checks by value would visit different ones.
        in_turn = is_plain or not self._is_by_value or count <= _MOST_WINDOWS_OF_OBJECTS
        self._windowed(Large(part, count, len(value), way, in_turn, isinstance(value, (list, tuple))))

    def _windowed(self, large: Large) -> None:
        if self._has_windows:
            self._changes += self._large_values.meet(large)

    def _to(self, value: Any, way: ValuePath) -> None:
        if type(value) not in PLAIN:
            self._queue.append((value, way, _ITSELF))

    # ---- collections and arrays

    def _list(self, value: Any, way: ValuePath) -> Any:
        self._attributes_of_subclass(value, way)
        count = len(value)
        if count <= _SMALL:
            self._queue += [(item, way, place) for place, item in enumerate(value) if type(item) not in PLAIN]
            return None if way.is_quiet else (count, tuple(map(self._brief, value)))
        places = [place * (count - 1) // (_PROBES - 1) for place in range(_PROBES)]
        probes = [value[place] for place in places]
        self._queue += [
            (item, way, place) for place, item in zip(places, probes, strict=True) if type(item) not in PLAIN
        ]
        if way.is_quiet:
            return None
        if not isinstance(value, deque) or count <= _MOST_WINDOWED or not self._is_quick:
            self._windowed_items(value, way)
        return count, tuple(map(self._brief, probes))

    def _dict(self, value: Any, way: ValuePath) -> Any:
        self._attributes_of_subclass(value, way)
        count = len(value)
        pairs = list(islice(dict.items(value), _SMALL if count <= _SMALL else _PROBES))
        self._queue += [(item, way, brief(key)) for key, item in pairs if type(item) not in PLAIN]
        if way.is_quiet:
            return None
        if count > _SMALL and (count <= _MOST_WINDOWED or not self._is_quick):
            self._windowed_items(value, way)
        return count, tuple([(self._brief(key), self._brief(item)) for key, item in pairs])

    def _set(self, value: Any, way: ValuePath) -> Any:
        self._attributes_of_subclass(value, way)
        for item in islice(value, _SMALL if len(value) <= _SMALL else _PROBES):
            self._to(item, way.to(id(item)))
        if way.is_quiet:
            return None
        if len(value) <= _SMALL:
            return len(value), frozenset(map(self._brief, value))
        if len(value) <= _MOST_WINDOWED or not self._is_quick:
            self._windowed_items(value, way)
        return len(value), tuple(map(self._brief, islice(value, _PROBES)))

    def _attributes_of_subclass(self, value: Any, way: ValuePath) -> None:
        """Continue with the attributes and the code of a collection whose class is the user's own."""
        if type(value).__module__ not in ("builtins", "collections"):
            attributes = attributes_of(value)
            for name, item in attributes.items():
                self._to(item, way.to(name, f"{type(value).__name__}.{name}"))
            self._to(type(value), way.to("class", type(value).__name__))

    def _array(self, value: Any, way: ValuePath) -> Any:
        is_tensor = isinstance(value, torch.Tensor)
        if self._skips_shared and is_tensor and value.device.type == "cpu" and value.is_shared():
            return None
        version = value._version if is_tensor and not value.is_inference() and not self._is_by_value else None
        array = array_of(value)
        if array is None or not array.size:
            return version, tuple(getattr(value, "shape", ()))
        if not may_change(array):
            return version, array.shape
        if self._is_by_value:
            self.arrays.append(array)
        part, count = array_windows(array)
        if count:
            self._windowed(Large(part, count, array.shape, way))
        return version, array_probes(array)

    # ---- code

    def _function(self, function: FunctionType, way: ValuePath) -> Any:
        if not is_user_code(function):
            # A function that a library's decorator has wrapped is in its closure.
            for name, item in closed_over(function):
                self._to(item, way.to(name, is_quiet=True))
            self._to(getattr(function, "__wrapped__", None), way.to("wrapped", is_quiet=False))
            return None
        if not self._is_quick:
            self.functions.append(function)
        names = names_of(function.__code__)
        self._names |= names.attributes
        self._reads_any |= names.reads_any
        read = [(f"the global {name}", item) for name, item in globals_read(function)]
        read += [(f"{name} of {function.__qualname__}", item) for name, item in closed_over(function)]
        defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        read += [(f"default {place} of {function.__qualname__}", item) for place, item in enumerate(defaults)]
        own = f"{function.__qualname__}."
        read += [(own + name, item) for name, item in function.__dict__.items() if name != "__wrapped__"]
        self._to(getattr(function, "__wrapped__", None), way.to("wrapped"))
        for name, item in read:
            self._to(item, ValuePath(hash((id(function), name)), name))
        return {name: self._brief(item) for name, item in read}

    def _class(self, kind: type, way: ValuePath) -> Any:
        seen: dict[str, Any] = {}
        self._to(type(kind), ValuePath(hash(type(kind)), type(kind).__name__))
        for base in kind.__mro__:
            if not is_user_class(base):
                continue
            for name, member in list(vars(base).items()):
                if name in seen or not self._is_read(name, member):
                    continue
                seen[name] = self._brief(member)
                if type(member) not in PLAIN:
                    self._to(member, ValuePath(hash((base.__qualname__, name)), f"{base.__name__}.{name}"))
        return seen

    def _is_read(self, name: str, member: Any) -> bool:
        """Return whether the code that was met may read a class's attribute; some methods run without being named."""
        if name.startswith("__") and name.endswith("__"):
            return runs_unnamed(name) and kind_of(member) in (ValueKind.FUNCTION, ValueKind.WRAPPED)
        return self._reads_any or name in self._names

    def _wrapped(self, value: Any, way: ValuePath) -> Any:
        if isinstance(value, (MethodType, BuiltinFunctionType)):
            is_receiver = is_user_code(getattr(value, "__func__", None))
            self._to(value.__self__, way.to("self")._replace(is_receiver=is_receiver))
        for place, part in enumerate(wrapped_values(value, self._skips_shared)):
            self._to(part, way.to(place))
        return times_cleared(value) if isinstance(value, _CACHED) else None

    def _generator(self, value: Any, way: ValuePath) -> None:
        is_known = any(each is value for each in (*self.generators, *process_generators()))
        if not self._is_quick and not is_known:
            self.generators.append(value)

    def _progress(self, value: Any, way: ValuePath) -> Any:
        if way.is_quiet:
            return None
        if not self._is_quick and is_single_pass(value):
            self.iterators.append(value)
        for part in gc.get_referents(value):
            self._to(part, way.to(id(part)))
        return (progress_of(value),)

    # ---- objects

    def _object(self, value: Any, way: ValuePath) -> Any:
        kind = kind_of(value)
        attributes = attributes_of(value)
        if kind is ValueKind.PASSED:
            hidden = hidden_arrays(value)
            self._alive.append(hidden)
            attributes |= hidden
        elif (is_all_users(value) or way.is_receiver) and not self._reads_any:
            attributes = {name: item for name, item in (attributes | parts_of(value)).items() if name in self._names}
        if isinstance(value, torch.nn.Module):
            attributes = {name: item for name, item in attributes.items() if not name.startswith(_MODULE_HOOKS)}
        place, is_quiet = type(value).__name__, kind is ValueKind.PASSED
        way = way._replace(is_scratch=is_transform(value) or (is_quiet and way.is_scratch))
        for name, item in attributes.items():
            if type(item) not in PLAIN:
                self._queue.append((item, way.to(name, f"{place}.{name}", is_quiet), _ITSELF))
        self._to(type(value), ValuePath(hash(type(value)), place))
        return None if is_quiet else {name: self._brief(item) for name, item in attributes.items()}

    _step = _passed = _object
