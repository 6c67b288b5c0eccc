"""Detection of loops that take the first batch of an iterator, train on it, and make another: next(iter(loader))."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plumb.tuning.measure.known_loader import WatchedIterator

# A loop that begins this many iterators for one batch each does so in every step.
_LONE_BATCHES = 8


class LoneBatches:
    """Counter of iterators of a script's loaders that delivered a single batch."""

    def __init__(self, done_to_loaders: str = "tuned") -> None:
        self._done_to_loaders = done_to_loaders
        # By loader: the latest iterator; the number of earlier ones that gave one batch each, and their start time.
        self._latest: dict[str, WatchedIterator] = {}
        self._lone: dict[str, tuple[int, float]] = {}

    def reason(self, watched: WatchedIterator, signals: int, patience_seconds: float) -> str | None:
        """Return why a loop can't be tuned if its steps have begun an epoch each for `patience_seconds`, else None.

        `watched` is about to deliver its first batch; `signals` is the number of backward passes and steps so far.
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
            f"{known.name} ({known.site}) was not {self._done_to_loaders}: the loop takes each batch by "
            f"next(iter({known.name})), which begins an epoch anew for every step, so nothing can be read ahead. Keep "
            f"one iterator, begun again when it ends, or write: for batch in {known.name}. Nothing was written"
        )
