"""Random numbers of samples made in the main process in place of the user's workers.

In workers they would not advance the training's generators, so they must not do so here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from plumb.instrument.rng_state import process_states, put_back


class WorkerDraws:
    """Generators of a worker with the seed `base_seed`, stored between its batches."""

    def __init__(self, base_seed: int) -> None:
        self._seed = base_seed
        self._states: tuple[Any, Any, Any] | None = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Draw from the worker's generators in the context, and from the training's afterwards."""
        trainings = process_states()
        if self._states is None:
            random.seed(self._seed)
            np.random.seed(self._seed % 2**32)
            torch.default_generator.manual_seed(self._seed)
        else:
            put_back(self._states)
        try:
            yield
        finally:
            self._states = process_states()
            put_back(trainings)
