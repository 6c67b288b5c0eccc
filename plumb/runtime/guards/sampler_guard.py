"""Check whether a user's sampler may be called ahead of the loop: not if the loop's steps influence it.

In the first batches of an epoch the sampler is called only when the user's own configuration would call it. It may be
called ahead afterwards if neither the loop nor the calls have changed it meanwhile, and it drew no random numbers. Its
later draws in calls ahead of time are undone, and repeated when they are due.
"""

from __future__ import annotations

import functools
import random
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler

from plumb.instrument.callee import is_user_code
from plumb.instrument.dataset_objects import closed_over, is_generator, named_globals
from plumb.instrument.rng_state import process_states, put_back

# A sampler may be called ahead once the loop has done this many steps without changing it.
STEPS_WATCHED = 3
_MOST_VALUES = 4000
_BYTES_DIGESTED = 1 << 22
_INNER = ".sampler"
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_SEQUENCES = (list, tuple, deque)

State = dict[str, Any]
States = tuple[Any, Any, Any]


class SamplerWatch:
    """Watch of one sampler in one epoch; `why_not` is the reason against calling it ahead, empty if there is none.

    `data` is the loader's dataset, whose changes other guards detect.
    """

    def __init__(self, sampler: Any, data: Any) -> None:
        self.why_not = ""
        self._sampler = sampler
        self._inner = sampler.sampler if type(sampler) is BatchSampler else sampler
        self._name = type(self._inner).__name__
        self._data = data
        self._steps = 0
        self._asked: State | None = None
        self._drawn_ahead: deque[tuple[States, States] | None] = deque()

    @property
    def may_be_asked_ahead(self) -> bool:
        """True if the loop has done its first steps, and there is no reason against it."""
        return not self.why_not and self._steps >= STEPS_WATCHED

    @contextmanager
    def asked_in_time(self) -> Iterator[None]:
        """Compare the sampler before and after a call when the user's own configuration would make it."""
        before, draws = self._look(), process_states()
        yield
        if places_drawn_from(draws, process_states()):
            self.why_not = self.why_not or f"{self._name} draws random numbers at each step"
        self._look_after(before)
        self._steps += 1

    @contextmanager
    def asked_ahead(self) -> Iterator[None]:
        """Compare the sampler before and after a call ahead of time; its draws are stored for `is_due`."""
        before, draws = self._look(), process_states()
        yield
        after = process_states()
        self._look_after(before)
        drew = bool(places_drawn_from(draws, after))
        self._drawn_ahead.append((draws, after) if drew else None)
        if drew:
            put_back(draws)

    def is_due(self) -> None:
        """Repeat the draws of the first call ahead, because the user's own configuration would make it now."""
        drawn = self._drawn_ahead.popleft()
        self._look()
        if drawn is None:
            return
        before, after = drawn
        now = list(process_states())
        for place in places_drawn_from(before, after):
            if place in places_drawn_from(before, (now[0], now[1], now[2])):
                self.why_not = self.why_not or f"{self._name} and the loop draw from the same generator"
                return
            now[place] = after[place]
        put_back((now[0], now[1], now[2]))

    def _look(self) -> State:
        """Compare the sampler with its state after its last call; differences are the loop's changes."""
        state = state_of_sampler(self._sampler, self._data)
        if self._asked is not None and not self.why_not:
            changed = changed_in(self._asked, state)
            if changed:
                self.why_not = f"the script changes {self._named(changed)} while an epoch runs"
        return state

    def _look_after(self, before: State) -> None:
        self._asked = state_of_sampler(self._sampler, self._data)
        if not self.why_not:
            changed = changed_in(before, self._asked)
            if changed:
                self.why_not = f"{self._named(changed)} changes with every batch"

    def _named(self, way: str) -> str:
        is_inner = self._inner is not self._sampler and way.startswith(_INNER)
        return f"{self._name}{way.removeprefix(_INNER)}" if is_inner else f"{type(self._sampler).__name__}{way}"


def places_drawn_from(before: States, after: States) -> list[int]:
    """Return which of Python's, numpy's and torch's generators were drawn from between two `process_states`."""
    is_same = (
        before[0] == after[0],
        all(map(np.array_equal, before[1], after[1])),
        before[2] is after[2] or torch.equal(before[2], after[2]),
    )
    return [place for place, same in enumerate(is_same) if not same]


def state_of_sampler(sampler: Any, data: Any) -> State:
    """Return everything reachable from a sampler, by its path: values, lengths, versions and digests of bytes."""
    state: State = {}
    pending: deque[tuple[str, Any]] = deque([("", sampler)])
    seen = {id(data)}
    while pending and len(state) < _MOST_VALUES:
        way, value = pending.popleft()
        if isinstance(value, _PLAIN):
            state[way] = value
            continue
        if id(value) in seen:
            state[way] = id(value)
            continue
        seen.add(id(value))
        state[way], inner = _looked_at(value)
        pending.extend((f"{way}{name}", item) for name, item in inner)
    return state


def changed_in(before: State, after: State) -> str:
    """Return the path to the first changed value, empty if there is none."""
    for way in before | after:
        if way not in before or way not in after or not _equal((before[way],), (after[way],)):
            return way
    return ""


def _looked_at(value: Any) -> tuple[Any, list[tuple[str, Any]]]:
    """Return the state of a value itself, and its parts."""
    if isinstance(value, torch.Tensor):
        version = None if value.is_inference() else value._version
        return (id(value), version, tuple(value.shape)), []
    if isinstance(value, np.ndarray):
        return (id(value), value.shape, _digest(value)), []
    if is_generator(value):
        return _drawn(value), []
    if isinstance(value, _SEQUENCES):
        return (id(value), len(value)), [(f"[{place}]", item) for place, item in _some(value)]
    if isinstance(value, Mapping):
        items = [(f"[{key!r}]", value[key]) for _, key in _some(list(value))] if len(value) <= _MOST_VALUES else []
        return (id(value), len(value)), items
    if isinstance(value, (set, frozenset)):
        return (id(value), len(value), hash(frozenset(map(id, value)))), []
    if isinstance(value, functools.partial):
        return id(value), [(".func", value.func), (".args", value.args), (".keywords", value.keywords)]
    if isinstance(value, MethodType):
        return id(value.__func__), [(".__self__", value.__self__)]
    if isinstance(value, FunctionType):
        inner = [*closed_over(value), *named_globals(value)] if is_user_code(value) else []
        return id(value), [(f"<{value.__name__}:{place}>", item) for place, item in enumerate(inner)]
    attributes = getattr(value, "__dict__", None)
    held = list(attributes.items()) if type(attributes) is dict else []
    held += [(name, getattr(value, name)) for name in _slots(type(value)) if hasattr(value, name)]
    steps = [vars(kind).get(name) for kind in type(value).__mro__ for name in ("__iter__", "__next__")]
    code = [(f".{step.__name__}", step) for step in steps if isinstance(step, FunctionType)]
    return id(value), [(f".{name}", item) for name, item in held] + code


def _slots(kind: type) -> list[str]:
    slots = [vars(each).get("__slots__", ()) for each in kind.__mro__]
    return [name for each in slots for name in ([each] if isinstance(each, str) else each) if not name.startswith("__")]


def _some(values: Any) -> list[tuple[int, Any]]:
    """Return the items of a sequence with their places: all of a short one, evenly spaced ones of a long one."""
    step = max(1, len(values) // (_MOST_VALUES // 4))
    return [(place, values[place]) for place in range(0, len(values), step)]


def _digest(array: np.ndarray[Any, Any]) -> int:
    if array.dtype.hasobject:
        return hash(tuple(map(id, array.ravel()[:_MOST_VALUES])))
    step = max(1, array.nbytes // _BYTES_DIGESTED)
    return zlib.crc32(np.ascontiguousarray(array.reshape(-1)[::step]).tobytes())


def _drawn(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "bit_generator"):
        return repr(generator.bit_generator.state)
    state = generator.get_state()
    return zlib.crc32(state.numpy().tobytes()) if isinstance(state, torch.Tensor) else repr(state)


def _equal(states: Any, others: Any) -> bool:
    if isinstance(states, torch.Tensor) and isinstance(others, torch.Tensor):
        return torch.equal(states, others)
    if isinstance(states, np.ndarray) or isinstance(others, np.ndarray):
        return np.array_equal(states, others)
    if isinstance(states, tuple) and isinstance(others, tuple):
        return len(states) == len(others) and all(map(_equal, states, others))
    return type(states) is type(others) and bool(states == others or (states != states and others != others))
