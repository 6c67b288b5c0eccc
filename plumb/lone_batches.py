"""Loops that take the first batch of an iterator, train on it, and make another iterator: next(iter(loader))."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plumb.watch import Watched

# A loop that begins so many iterators for one batch each does so in every step.
_LONE_BATCHES = 8


class LoneBatches:
    """Looks at the iterators of a script's loaders as they give their first batch."""

    def __init__(self) -> None:
        # By loader: the iterator that was begun last; and how many before it gave one batch each, and since when.
        self._latest: dict[str, Watched] = {}
        self._lone: dict[str, tuple[int, float]] = {}

    def reason(self, watched: Watched, signals: int, patience_seconds: float) -> str | None:
        """Return why a loop can't be tuned, where its steps have begun an epoch each for `patience_seconds`.

        `watched` is about to give its first batch, and `signals` counts backward passes and steps so far.
        """
        known, now = watched.known, time.perf_counter()
        last, self._latest[known.name] = self._latest.get(known.name), watched
        is_lone = last is not None and not last.has_ended and last.batches_given == 1
        if not is_lone or last is None or signals == last.signals_before:
            self._lone[known.name] = 0, now
            return None
        count, since = self._lone[known.name]
        self._lone[known.name] = count + 1, since
        if count < _LONE_BATCHES or now - since < patience_seconds:
            return None
        return (
            f"{known.name} ({known.site}) was not tuned: the loop takes each batch by next(iter({known.name})), which "
            "begins an epoch anew for every step, so nothing can be read ahead. Keep one iterator, begun again when it "
            f"ends, or write: for batch in {known.name}. Nothing was written"
        )
