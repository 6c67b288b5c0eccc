"""Random generators that a dataset's samples may draw from: comparison and restoration of their states."""

from __future__ import annotations

import ctypes
import hashlib
import random
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch

from plumb.instrument.dataset_objects import get_state, is_generator, reached, set_state
from plumb.instrument.rng_state import generator_states, process_states, put_back, state_of

_CLASSES = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)


@dataclass(frozen=True)
class GeneratorStates:
    """States of generators at one moment by their names, for `Generators.put_back`; plain values only."""

    process: tuple[Any, Any, bytes]
    held: dict[str, Any]


class Generators:
    """Process-wide generators, those inside a dataset, and those in modules' global names.

    They are collected in the constructor; `look_again` finds those that samples have made since. A generator without a
    state, such as `random.SystemRandom`, can't be watched.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._held: dict[str, Any] = dict(generators_of_modules())
        self._of_dataset = 0
        self.look_again()

    def look_again(self) -> bool:
        """Collect the dataset's generators again; return whether there are new ones."""
        known = {id(each) for each in self._held.values()}
        of_dataset = {id(each): each for each in reached(self._dataset) if is_generator(each)}
        new = [each for key, each in of_dataset.items() if key not in known]
        for each in new:
            self._of_dataset += 1
            self._held[f"generator {self._of_dataset} of the dataset"] = each
        return bool(new)

    def states(self) -> tuple[Any, ...]:
        """Return the states of all generators, comparable with `==`: they differ after a draw."""
        return (*generator_states([]), *self.own_states())

    def own_states(self) -> tuple[Any, ...]:
        """Return the states of all generators except the process-wide ones."""
        return (*map(state_of, self._held.values()), *_states_on_devices())

    def named_states(self) -> dict[str, bytes]:
        """Return a digest of the state of each generator on the CPU by its name, equal in all processes."""
        names = ["random", "numpy", "torch", *self._held]
        states = generator_states(list(self._held.values()))
        return {
            name: hashlib.blake2b(repr(state).encode(), digest_size=16).digest()
            for name, state in zip(names, states, strict=True)
        }

    def snapshot(self) -> GeneratorStates:
        """Return the states of all generators on the CPU, for `put_back`."""
        python, numpy, torchs = process_states()
        held = {name: _without_tensor(get_state(each)) for name, each in self._held.items()}
        return GeneratorStates((python, numpy, torchs.numpy().tobytes()), held)

    def put_back(self, kept: GeneratorStates) -> bool:
        """Restore the generators' states; return whether each state found its generator here."""
        python, numpy, torchs = kept.process
        put_back((python, numpy, _as_tensor(torchs)))
        for name, state in kept.held.items():
            if name in self._held:
                set_state(self._held[name], _as_tensor(state) if isinstance(state, bytes) else state)
        return kept.held.keys() <= self._held.keys()


class DrawWatch:
    """Check for draws of random numbers since the last call, five times as fast as reading the states twice.

    Reading the state of numpy's process-wide generator takes longer than many samples. Its memory is compared instead,
    except while it stores a second normal number for the next call, whose use doesn't change that memory.
    """

    def __init__(self, generators: Generators) -> None:
        self._generators = generators
        self._memory: bytes | None = None
        self._states: tuple[Any, ...] = ()
        self._others: tuple[Any, ...] = ()
        self._take()

    def has_moved(self) -> bool:
        """Return whether any generator's state differs from that at the last call, or at construction."""
        if self._memory is None:
            before, self._states = self._states, self._generators.states()
            has_moved = bool(before != self._states)
        else:
            has_moved = self._memory != self._numpy.read() or self._others != self._other_states()
        if has_moved:
            self._take()
        return has_moved

    def _take(self) -> None:
        keeps_a_number = bool(np.random.get_state(legacy=False)["has_gauss"])
        self._numpy = _NumpyMemory()
        self._memory = None if keeps_a_number else self._numpy.read()
        self._states = () if self._memory is not None else self._generators.states()
        self._others = self._other_states() if self._memory is not None else ()

    def _other_states(self) -> tuple[Any, ...]:
        return random.getstate(), torch.get_rng_state().numpy().tobytes(), *self._generators.own_states()


def _bit_generator() -> Any:
    return np.random.get_bit_generator()  # type: ignore[attr-defined]


class _NumpyMemory:
    """Memory of numpy's process-wide generator."""

    _BYTES = 625 * 4

    def __init__(self) -> None:
        self._generator = _bit_generator()
        is_usual = type(self._generator) is np.random.MT19937
        self._address = self._generator.ctypes.state_address if is_usual else None

    def read(self) -> bytes | None:
        """Return the memory's content; None for another kind of generator, or if the script has replaced it."""
        if self._address is None or _bit_generator() is not self._generator:
            return None
        return ctypes.string_at(self._address, self._BYTES)


def _without_tensor(state: Any) -> Any:
    """Return a state that can be sent without shared memory: bytes for torch's."""
    return state.numpy().tobytes() if isinstance(state, torch.Tensor) else state


def _as_tensor(state: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)


def _states_on_devices() -> tuple[bytes, ...]:
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return ()
    return tuple(each.get_state().numpy().tobytes() for each in torch.cuda.default_generators)


def generators_of_modules() -> dict[str, Any]:
    """Return the generators in modules' global names, including libraries', without the process-wide ones.

    They are collected again if modules were imported since; a forked process has its parent's.
    """
    if _in_modules.modules != len(sys.modules):
        _in_modules.modules = len(sys.modules)
        _in_modules.found = _found_in_modules()
    return _in_modules.found


@dataclass
class _InModules:
    """Generators in modules, and the number of modules when they were collected."""

    modules: int = 0
    found: dict[str, Any] = field(default_factory=dict)


_in_modules = _InModules()


def _found_in_modules() -> dict[str, Any]:
    process_wide = (random._inst, np.random.mtrand._rand, torch.default_generator)
    found: dict[int, tuple[str, Any]] = {id(each): ("", each) for each in process_wide}
    modules = [each for each in list(sys.modules.values()) if type(each) is ModuleType]
    # There are about a hundred thousand values in them, but few types. Types are checked first, because modules contain
    # objects that warn, or import, when asked for their class.
    kinds_in = [set(map(type, list(vars(module).values()))) for module in modules]
    watched = {kind for kind in set().union(*kinds_in) if _is_watched(kind)}
    for module, kinds in zip(modules, kinds_in, strict=True):
        for name, value in list(vars(module).items()) if kinds & watched else ():
            if type(value) in watched:
                found.setdefault(id(value), (f"{module.__name__}.{name}", value))
    return {name: value for name, value in found.values() if name}


def _is_watched(kind: type) -> bool:
    return issubclass(kind, _CLASSES) and not issubclass(kind, random.SystemRandom)
