"""What a dataset holds: the objects that make its samples, their random generators, and whether a call changed them."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from plumb.profile.randomness import disturb_generators, kept_generators
from plumb.runtime import code_names
from plumb.runtime.dataset_state import DatasetState
from plumb.runtime.object_parts import process_generators
from plumb.trace.discovery import GENERATOR_CLASSES
from plumb.trace.expand import (
    is_dataset,
    is_of_user_class,
    is_step,
)

# A dataset of a million objects is not walked to its end.
_REACHED_SECONDS = 0.3
GROWING = (list, dict, set, deque)
PLAIN = (bool, int, float, complex, str, bytes, type(None))
CODE = (FunctionType, MethodType, functools.partial, type)


class Held:
    """The objects that hang from a dataset: wrapped datasets, transforms, what their code names, and their generators.

    Looked up once: what the dataset starts to hold later is not among them.
    """

    def __init__(self, dataset: Any) -> None:
        found = reached(dataset)
        self.generators = [
            value for value in found if is_generator(value) and not any(value is each for each in process_generators())
        ]
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


def reached(dataset: Any) -> list[Any]:
    """Return what can be reached from a dataset, nearest first: what its samples' code may read, and that code."""
    found: dict[int, Any] = {}

    def visit(value: Any, _: str) -> None:
        found.setdefault(id(value), value)

    DatasetState([dataset], visit=visit, everything=True).look(_REACHED_SECONDS, has_windows=False)
    return list(found.values())


def closed_over(function: FunctionType) -> list[Any]:
    """Return the values of a function's free variables that are set."""
    return [value for _, value in code_names.closed_over(function)]


def named_globals(function: FunctionType) -> list[Any]:
    """Return what a function's code may read by global names, and from the user's modules."""
    return [value for _, value in code_names.globals_read(function)]


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
