"""Other loaders that a training loop reads in each of its steps, besides the one through which it is tuned.

A labelled and an unlabelled loader, or two zipped ones, feed one loop: its waiting time is known only if all of them
have batches ready, and its gain only if all of them are changed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from plumb.core.errors import UsersError, one_line
from plumb.runtime.loader import current_config
from plumb.tuning.loop_changes import LoopChanges
from plumb.tuning.measure.known_loader import KnownLoader, WatchedIterator
from plumb.tuning.measure.replayed_batches import BegunBatches, RestartingIterator, replayed

if TYPE_CHECKING:
    from plumb.core.events import Event

# The loop itself reads a loader if it does so in at least this many steps, and in this share of all.
_STEPS_AT_LEAST, _SHARE_OF_STEPS = 2, 0.5
_KEPT_BATCHES = 2


class Companion:
    """Another loader of the tuned loop; it delivers its own batches unless `give` sets others.

    `is_confirmed` says that the loop was seen to read it in its steps. `failure` is the reason in one line if a
    candidate's batches could not be read, and `result` the event with its plan at the end. `wait_seconds` adds up what
    the loop waits for its batches.
    """

    def __init__(self, known: KnownLoader, watched: WatchedIterator, loader: DataLoader[Any], beside: str) -> None:
        self.known = known
        self._beside = beside
        self.loader = loader
        self.is_confirmed = False
        self.batches_per_step = 1.0
        self.cpu_seconds_per_batch = 0.0
        self.wait_seconds = 0.0
        self.failure = ""
        self.result: Event | None = None
        self.changes = None if loader.num_workers else LoopChanges(loader)
        self._watched = watched
        self._iterators = {id(watched)}
        # The one before the loop was taken over is the first.
        self._steps = {0}
        self._asked = 0
        self._cpu_seconds = 0.0
        self._kept: deque[Any] = deque(maxlen=_KEPT_BATCHES)
        self._own: Iterator[Any] | None = None
        self._given: Iterator[Any] | None = None

    @property
    def in_flight(self) -> int:
        """Largest number of batches that the user's own configuration may have prefetched."""
        return current_config(self.loader).batches_in_flight

    @property
    def changed(self) -> str:
        """Place of the loop's changes to the dataset during an epoch; empty if there are none."""
        return self.changes.place if self.changes is not None else ""

    def note(self, watched: WatchedIterator, batch: Any, step: int, seconds: float, cpu_seconds: float) -> None:
        """Record a batch that the loop got from its own loader, with the number of the loop's step."""
        self._watched = watched
        self._iterators.add(id(watched))
        self._steps.add(step)
        if len(self._steps) >= _STEPS_AT_LEAST and not watched.plain_loop:
            self.known.read_beside = self._beside
        self._asked += 1
        self.wait_seconds += seconds
        self._cpu_seconds += cpu_seconds
        self._kept.append(batch)

    def confirm(self, steps: int) -> bool:
        """Return whether the loop reads this loader in its steps, and if so make it endless.

        A loader that one step reads as a whole, for instance to validate, doesn't count.

        Args:
            steps: Number of the loop's steps so far.
        """
        is_read = len(self._steps) >= max(_STEPS_AT_LEAST, _SHARE_OF_STEPS * (steps + 1))
        if not is_read or self._watched.plain_loop or len(self._iterators) > 1 + _SHARE_OF_STEPS * steps:
            return False
        self.batches_per_step = self._asked / (len(self._steps) - 1)
        self.cpu_seconds_per_batch = self._cpu_seconds / self._asked
        self._own = RestartingIterator(self._watched.batches, self._watched.start)
        self.is_confirmed = True
        return True

    def give(self, batches: Iterator[Any] | None) -> None:
        """Use these batches from now on; None for the loader's own."""
        self._given = batches

    def give_replayed(self) -> None:
        """Use a few batches in a cycle, which take no time to load."""
        assert self._own is not None
        kept = list(self._kept) or [next(self._own)]
        self.give(replayed(kept, self.loader.pin_memory))

    def batch(self) -> Any:
        """Return the batch that the loop requests. Raise UsersError with the error of its own dataset."""
        assert self._own is not None
        if self.changes is not None:
            self.changes.after(interrupted=False)
        begun = time.perf_counter()
        try:
            return self._next(self._own)
        finally:
            self.wait_seconds += time.perf_counter() - begun
            if self.changes is not None:
                self.changes.before()

    def _next(self, own: Iterator[Any]) -> Any:
        if self._given is not None:
            try:
                return next(self._given)
            except Exception as error:
                # The user's own loader may not need the workers, stores and files that a candidate needs.
                self.failure = one_line(error.error if isinstance(error, UsersError) else error)
                self._given = None
        return next(own)


class Companions:
    """All other loaders of a loop; `members` is the loop's own list of them."""

    def __init__(self, members: list[Companion]) -> None:
        self.members = members
        self._candidates: list[tuple[Iterator[Any] | None, int]] = []

    def confirm(self, steps: int) -> None:
        """Keep the loaders that the loop was seen to read in its `steps` steps."""
        self.members[:] = [member for member in self.members if member.is_confirmed or member.confirm(steps)]

    def give_replayed(self) -> None:
        """Give the loop batches of all loaders that take no time."""
        for member in self.members:
            member.give_replayed()

    def give_own(self) -> None:
        """Give the loop the batches of its own loaders."""
        for member in self.members:
            member.give(None)

    def start(self, loaders: Sequence[tuple[DataLoader[Any], int] | None]) -> None:
        """Start a candidate for each member and read its first batch. Raise a loader's errors, and UsersError.

        Args:
            loaders: For each member a loader and its number of prefetched batches; None keeps the loop's own loader.
        """
        self._candidates = []
        for member, candidate in zip(self.members, loaders, strict=True):
            member.failure = ""
            if candidate is None:
                self._candidates.append((None, member.in_flight))
            else:
                loader, ahead = candidate
                batches = RestartingIterator(None, partial(iter, loader))
                self._candidates.append((BegunBatches(next(batches), batches), ahead))

    def switch(self, to_candidate: bool) -> int:
        """Give the loop the candidates' batches or its own; return for how many steps these may be prefetched."""
        steps = 0.0
        for place, member in enumerate(self.members):
            batches, ahead = self._candidates[place] if to_candidate else (None, member.in_flight)
            member.give(None if member.failure else batches)
            steps = max(steps, (ahead + 1) / member.batches_per_step)
        return int(steps)

    @property
    def failure(self) -> str:
        """Reason why a candidate's batches could not be read, in one line; empty if they could."""
        return next((member.failure for member in self.members if member.failure), "")


def beside(
    watched: WatchedIterator, others: Sequence[WatchedIterator], loader_of: Callable[[KnownLoader], Any]
) -> list[Companion]:
    """Return the loaders that a loop has read since the previous batch of the loader through which it is tuned."""
    since = watched.handed_over_at
    if since is None:
        return []
    return [
        Companion(other.known, other, loader, watched.known.name)
        for other in others
        if other.known is not watched.known
        and not other.has_ended
        and other.handed_over_at is not None
        and since <= other.handed_over_at <= time.perf_counter()
        and (loader := loader_of(other.known)) is not None
    ]
