"""The random generators that a dataset's samples may draw from: their states, compared and put back."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch

from plumb.profile.randomness import generator_states, process_states, put_back
from plumb.runtime.held import get_state, is_generator, reached, set_state

_CLASSES = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)


@dataclass(frozen=True)
class Kept:
    """States of generators at one moment, for `Generators.put_back`. Picklable where the states are."""

    process: tuple[Any, Any, Any]
    held: tuple[Any, ...]


class Generators:
    """The process-wide generators, those that hang from a dataset, and those that modules hold in a global name.

    They are looked up when this is made; `look_again` finds those that samples have made since. A generator without a
    state, such as `random.SystemRandom`, can't be watched.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._in_modules = generators_of_modules()
        self._held: list[Any] = []
        self.look_again()

    def look_again(self) -> bool:
        """Look up the dataset's generators; return whether there are some that were not watched until now."""
        of_dataset = [each for each in reached(self._dataset) if is_generator(each)]
        found = {id(each): each for each in (*of_dataset, *self._in_modules)}
        known = {id(each) for each in self._held}
        self._held += [each for key, each in found.items() if key not in known]
        return len(self._held) > len(known)

    def states(self) -> tuple[Any, ...]:
        """The states of all generators, comparable with `==`: after a draw they differ."""
        return (*generator_states(self._held), *_states_on_devices())

    def kept(self) -> Kept:
        """The states of all generators on the CPU, for `put_back`."""
        return Kept(process_states(), tuple(map(get_state, self._held)))

    def put_back(self, kept: Kept) -> None:
        """Set the generators to what they were. One that was found later stays as it is."""
        put_back(kept.process)
        for generator, state in zip(self._held, kept.held, strict=False):
            set_state(generator, state)


def _states_on_devices() -> tuple[bytes, ...]:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return ()
    return tuple(each.get_state().numpy().tobytes() for each in torch.cuda.default_generators)


def generators_of_modules() -> list[Any]:
    """The generators that modules hold in a global name, libraries' among them, but for the process-wide ones.

    They are looked up anew when modules were imported since; a forked process has what its parent found.
    """
    if _in_modules.modules != len(sys.modules):
        _in_modules.modules = len(sys.modules)
        _in_modules.found = _found_in_modules()
    return _in_modules.found


@dataclass
class _InModules:
    """The generators in modules, and the number of modules when they were looked up."""

    modules: int = 0
    found: list[Any] = field(default_factory=list)


_in_modules = _InModules()


def _found_in_modules() -> list[Any]:
    process_wide = (random._inst, np.random.mtrand._rand, torch.default_generator)
    found: dict[int, Any] = {}
    for module in [each for each in list(sys.modules.values()) if type(each) is ModuleType]:
        for value in list(vars(module).values()):
            # By its type: modules hold objects that warn, or import, when they are asked for their class.
            if issubclass(type(value), _CLASSES) and not issubclass(type(value), random.SystemRandom):
                found[id(value)] = value
    return [value for value in found.values() if not any(value is each for each in process_wide)]
