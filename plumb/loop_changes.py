"""What a user's loop changes of what samples are made from, while it has a batch."""

from __future__ import annotations

import time
from typing import Any

from torch.utils.data import DataLoader

from plumb.runtime.dataset_state import DatasetState
from plumb.runtime.object_parts import roots_of

# The first batches are looked at each, later ones within this share of the time.
_LOOKED_AT, _SHARE = 12, 0.005


class LoopChanges:
    """Looks at a loader's dataset before and after the loop has a batch; `place` is what it was seen to change."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.place = ""
        self._state = DatasetState(roots_of(loader))
        self._batches = 0
        self._due_at = 0.0
        self._is_seen = False

    def before(self) -> None:
        """Take note of what is there before the loop gets a batch: samples that were made may have changed it."""
        self._batches += 1
        self._is_seen = not self.place and (self._batches <= _LOOKED_AT or time.perf_counter() >= self._due_at)
        if self._is_seen:
            self._state.glance(only_nearest=True)

    def after(self, interrupted: bool) -> None:
        """Find what the loop has changed; where it was `interrupted`, another epoch has begun, and nothing is said."""
        if not self._is_seen:
            return
        changes = self._state.glance(only_nearest=True)
        self._due_at = time.perf_counter() + 2 * self._state.seconds / _SHARE
        if changes and not interrupted:
            self.place = changes[0].place
