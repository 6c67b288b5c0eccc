"""States of the process's random number generators: reading, changing and restoring them."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

GENERATOR_CLASSES = {"Generator", "RandomState", "Random"}
"""Names of numpy's, torch's and Python's random generators."""


def generator_states(others: list[Any]) -> tuple[Any, ...]:
    """Return the states of `random`, `numpy.random`, torch's generator and `others`, comparable with `==`."""
    torch = sys.modules.get("torch")
    drawn = None if torch is None else torch.get_rng_state().numpy().tobytes()
    return random.getstate(), _legacy_state(np.random.get_state()), drawn, *map(state_of, others)


def _legacy_state(state: Any) -> Any:
    """Return the state of a numpy `RandomState` with its keys as bytes; other bit generators' state as text."""
    if isinstance(state, dict):
        return repr(state)
    algorithm, keys, position, has_gauss, gauss = state
    return algorithm, keys.tobytes(), position, has_gauss, gauss


def state_of(generator: Any) -> Any:
    """Return the state of one generator of Python's, numpy's or torch's kind; None for anything else."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return repr(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return _legacy_state(generator.get_state())
    return generator.get_state().numpy().tobytes() if hasattr(generator, "get_state") else None


def disturb_generators() -> None:
    """Draw once from each generator, so that results that depend on their states change."""
    random.random()
    np.random.random()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.rand(())


@contextmanager
def restored_generators() -> Iterator[None]:
    """Restore the generators' states on exit, so that inspecting a pipeline doesn't change the training's numbers."""
    before = process_states()
    try:
        yield
    finally:
        put_back(before)


def process_states() -> tuple[Any, Any, Any]:
    """Return the states of the process's own generators, for `put_back`."""
    torch = sys.modules.get("torch")
    return random.getstate(), np.random.get_state(), None if torch is None else torch.get_rng_state()


def put_back(states: tuple[Any, Any, Any]) -> None:
    """Restore the process's own generators to the given states."""
    random.setstate(states[0])
    np.random.set_state(states[1])
    if states[2] is not None:
        sys.modules["torch"].set_rng_state(states[2])
