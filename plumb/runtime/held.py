"""What a dataset holds: the objects that make its samples, their random generators, and whether a call changed them."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from plumb.profile.randomness import disturb_generators, kept_generators
from plumb.trace.discovery import GENERATOR_CLASSES
from plumb.trace.expand import (
    is_dataset,
    is_of_user_class,
    is_step,
    is_user_class,
    is_user_code,
    is_user_file,
    items_of,
)

MOST_OBJECTS = 2000
GROWING = (list, dict, set, deque)
PLAIN = (bool, int, float, complex, str, bytes, type(None))
CODE = (FunctionType, MethodType, functools.partial, type)


class Held:
    """The objects that hang from a dataset: wrapped datasets, transforms, what their code names, and their generators.

    Looked up once: what the dataset starts to hold later is not among them.
    """

    def __init__(self, dataset: Any) -> None:
        found = list(reached(dataset))
        self.generators = [value for value in found if is_generator(value)]
        self._start = [get_state(generator) for generator in self.generators]
        self.objects = [value for value in found if _has_attributes(value) and _makes_samples(value)]

    def state(self) -> dict[tuple[int, str], tuple[Any, int]]:
        """What each attribute of each object is, and how much is in it where it can grow. Compare with `changed`."""
        return {
            (place, name): (value, len(value) if isinstance(value, GROWING) else 0)
            for place, item in enumerate(self.objects)
            for name, value in list(vars(item).items())
        }

    def changed(self, before: dict[tuple[int, str], tuple[Any, int]]) -> str:
        """The first attribute that is not what it was, such as `Frames.count`; empty where all are."""
        after = self.state()
        for key in before | after:
            if not _is_same(before.get(key), after.get(key)):
                return f"{type(self.objects[key[0]]).__name__}.{key[1]}"
        return ""

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Puts the random generators back: the process's own as they were, held ones as they were at the start."""
        with kept_generators():
            try:
                yield
            finally:
                for generator, state in zip(self.generators, self._start, strict=True):
                    set_state(generator, state)

    def seed(self, seed: int) -> None:
        """Sets all random generators: the process's own by `seed`, a held one to that many draws after its start."""
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for generator, state in zip(self.generators, self._start, strict=True):
            set_state(generator, state)
            for _ in range(seed):
                _draw(generator)

    def disturb(self) -> None:
        """Draws from all random generators, so that what depends on their states comes out differently."""
        disturb_generators()
        for generator in self.generators:
            _draw(generator)


def is_generator(value: object) -> bool:
    """Whether a value is a random generator of numpy's, torch's or Python's, with a state that can be put back."""
    if isinstance(value, random.SystemRandom):
        return False
    named = type(value).__name__ in GENERATOR_CLASSES
    return isinstance(value, random.Random) or (
        named and (hasattr(value, "bit_generator") or hasattr(value, "set_state"))
    )


def _is_same(before: tuple[Any, int] | None, after: tuple[Any, int] | None) -> bool:
    if before is None or after is None or before[1] != after[1]:
        return False
    if isinstance(before[0], PLAIN):
        return type(before[0]) is type(after[0]) and bool(before[0] == after[0] or before[0] != before[0])
    return before[0] is after[0]


def _makes_samples(value: Any) -> bool:
    """Whether an object is the user's, a dataset, or a step: what clients and pools of libraries count is their own."""
    return is_of_user_class(value) or is_dataset(value) or is_step(value)


def _has_attributes(value: Any) -> bool:
    return not isinstance(value, (*CODE, ModuleType)) and type(getattr(value, "__dict__", None)) is dict


def reached(dataset: Any) -> Iterator[Any]:
    """What can be reached from a dataset, nearest first: by attributes, short lists, closures and names in code."""
    pending = deque([dataset])
    seen: dict[int, Any] = {}
    while pending and len(seen) < MOST_OBJECTS:
        value = pending.popleft()
        if id(value) in seen or isinstance(value, (*PLAIN, ModuleType, CodeType)):
            continue
        seen[id(value)] = value
        yield value
        pending.extend(_reached(value))


def _reached(value: Any) -> Iterable[Any]:
    if isinstance(value, FunctionType):
        return [*closed_over(value), *named_globals(value)] if is_user_code(value) else []
    if isinstance(value, (MethodType, BuiltinFunctionType)):
        return [value.__self__, getattr(value, "__func__", None)]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, type):
        return [item for kind in value.__mro__ if is_user_class(kind) for item in vars(kind).values()]
    if isinstance(value, (staticmethod, classmethod)):
        return [value.__func__]
    if isinstance(value, property):
        return [value.fget]
    attributes = getattr(value, "__dict__", None)
    held = list(attributes.values()) if type(attributes) is dict else []
    return [*items_of(value), *held, type(value)]


def closed_over(function: FunctionType) -> list[Any]:
    """The values of a function's free variables that are set."""
    return [value for cell in function.__closure__ or () for value in _content(cell)]


def _content(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:
        return []  # not set yet


def named_globals(function: FunctionType) -> list[Any]:
    """What a function's code may mean by the global names in it, and by those names in the user's modules."""
    names = list(_names(function.__code__))
    found = [function.__globals__[name] for name in names if name in function.__globals__]
    modules = [value for value in found if isinstance(value, ModuleType) and _is_users(value)]
    inside = [vars(module)[name] for module in modules for name in names if name in vars(module)]
    return [value for value in (*found, *inside) if not isinstance(value, ModuleType)]


def _is_users(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and is_user_file(file)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def get_state(generator: Any) -> Any:
    """The state of a generator, for `set_state`."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "bit_generator"):
        return generator.bit_generator.state
    return generator.get_state()


def set_state(generator: Any, state: Any) -> None:
    """Set a generator to a state that `get_state` returned."""
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def _draw(generator: Any) -> None:
    if hasattr(generator, "random"):
        generator.random()
    else:
        torch.rand((), generator=generator)
