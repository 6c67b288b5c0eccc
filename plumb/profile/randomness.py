"""The process's random generators: their states before and after, and as they were."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


def generator_states(others: list[Any]) -> tuple[Any, ...]:
    """The states of `random`, `numpy.random`, torch's generator and `others`, comparable with `==`."""
    torch = sys.modules.get("torch")
    drawn = None if torch is None else torch.get_rng_state().numpy().tobytes()
    return random.getstate(), _legacy_state(np.random.get_state()), drawn, *map(state_of, others)


def _legacy_state(state: Any) -> Any:
    """The state of a `RandomState` of numpy's, with its keys as bytes; it may be over a generator of another kind."""
    if isinstance(state, dict):
        return repr(state)
    algorithm, keys, position, has_gauss, gauss = state
    return algorithm, keys.tobytes(), position, has_gauss, gauss


def state_of(generator: Any) -> Any:
    """The state of one generator of Python's, numpy's or torch's kind; None for anything else."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return repr(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return _legacy_state(generator.get_state())
    return generator.get_state().numpy().tobytes() if hasattr(generator, "get_state") else None


def disturb_generators() -> None:
    """Draws once from each generator, so that what depends on their states comes out differently."""
    random.random()
    np.random.random()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.rand(())


@contextmanager
def kept_generators() -> Iterator[None]:
    """Puts the generators back as they were, so that looking at a pipeline doesn't change the training's numbers."""
    before = process_states()
    try:
        yield
    finally:
        put_back(before)


def process_states() -> tuple[Any, Any, Any]:
    """The states of the process's own generators, for `put_back`."""
    torch = sys.modules.get("torch")
    return random.getstate(), np.random.get_state(), None if torch is None else torch.get_rng_state()


def put_back(states: tuple[Any, Any, Any]) -> None:
    """Sets the process's own generators to what they were."""
    random.setstate(states[0])
    np.random.set_state(states[1])
    if states[2] is not None:
        sys.modules["torch"].set_rng_state(states[2])
