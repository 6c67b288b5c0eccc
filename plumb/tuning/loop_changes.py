"""Detection of changes that a user's loop makes, between two batches, to the objects that samples are made from."""

from __future__ import annotations

import time
from typing import Any

from torch.utils.data import DataLoader

from plumb.instrument.dataset_state import DatasetState
from plumb.instrument.object_parts import roots_of

# Number of first batches that are all checked, and the share of the time for checks of later ones.
_LOOKED_AT, _SHARE = 12, 0.005


class LoopChanges:
    """Comparison of a loader's dataset before and after each step; `place` is the first change that was seen."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.place = ""
        self._state = DatasetState(roots_of(loader))
        self._batches = 0
        self._due_at = 0.0
        self._is_seen = False

    def before(self) -> None:
        """Record the state before the loop gets a batch, because loading samples may have changed it."""
        self._batches += 1
        self._is_seen = not self.place and (self._batches <= _LOOKED_AT or time.perf_counter() >= self._due_at)
        if self._is_seen:
            self._state.glance(only_nearest=True)

    def after(self, interrupted: bool) -> None:
        """Compare the state after the loop's step; ignore changes if it was `interrupted` by another epoch."""
        if not self._is_seen:
            return
        changes = self._state.glance(only_nearest=True)
        self._due_at = time.perf_counter() + 2 * self._state.seconds / _SHARE
        if changes and not interrupted:
            self.place = changes[0].place
