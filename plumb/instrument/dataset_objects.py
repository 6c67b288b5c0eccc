"""Objects inside a dataset that make its samples, their random generators, and changes by a call."""

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

from plumb.instrument import code_names
from plumb.instrument.callee import (
    is_dataset,
    is_of_user_class,
    is_step,
)
from plumb.instrument.dataset_state import DatasetState
from plumb.instrument.object_parts import process_generators
from plumb.instrument.rng_state import GENERATOR_CLASSES, disturb_generators, restored_generators

# A dataset of a million objects is not walked to its end.
_REACHED_SECONDS = 0.3
GROWING = (list, dict, set, deque)
PLAIN = (bool, int, float, complex, str, bytes, type(None))
CODE = (FunctionType, MethodType, functools.partial, type)


class DatasetObjects:
    """Objects reachable from a dataset: wrapped datasets, transforms, objects that their code names, and generators.

    They are collected once, without those that the dataset gets later.
    """

    def __init__(self, dataset: Any) -> None:
        found = reached(dataset)
        self.generators = [
            value for value in found if is_generator(value) and not any(value is each for each in process_generators())
        ]
        self._start = [get_state(generator) for generator in self.generators]
        self.objects = [value for value in found if _has_attributes(value) and _makes_samples(value)]

    def state(self) -> dict[tuple[int, str], tuple[Any, int]]:
        """Return each attribute of each object, with its size if it can grow, for `changed`."""
        return {
            (place, name): (value, len(value) if isinstance(value, GROWING) else 0)
            for place, item in enumerate(self.objects)
            for name, value in list(vars(item).items())
        }

    def changed(self, before: dict[tuple[int, str], tuple[Any, int]]) -> str:
        """Return the first attribute that has changed, such as `Frames.count`; empty if none has."""
        after = self.state()
        for key in before | after:
            if not _is_same(before.get(key), after.get(key)):
                return f"{type(self.objects[key[0]]).__name__}.{key[1]}"
        return ""

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Restore the random generators after the context: the process's own ones to before, others to the start."""
        with restored_generators():
            try:
                yield
            finally:
                for generator, state in zip(self.generators, self._start, strict=True):
                    set_state(generator, state)

    def seed(self, seed: int) -> None:
        """Seed all random generators: the process's own by `seed`, the others by that many draws after their start."""
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for generator, state in zip(self.generators, self._start, strict=True):
            set_state(generator, state)
            for _ in range(seed):
                _draw(generator)

    def disturb(self) -> None:
        """Draw from all random generators, so that values that depend on their states come out differently."""
        disturb_generators()
        for generator in self.generators:
            _draw(generator)


def is_generator(value: object) -> bool:
    """Return whether a value is a random generator of numpy's, torch's or Python's with a restorable state."""
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
    """Return whether an object is the user's, a dataset, or a step; counters of libraries' clients don't matter."""
    return is_of_user_class(value) or is_dataset(value) or is_step(value)


def _has_attributes(value: Any) -> bool:
    return not isinstance(value, (*CODE, ModuleType)) and type(getattr(value, "__dict__", None)) is dict


def reached(dataset: Any) -> list[Any]:
    """Return what is reachable from a dataset, nearest first: all that its samples' code may read, and that code."""
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
    """Return the state of a generator, for `set_state`."""
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
