"""Running checks: a share of the batches is made a second time, plainly, and compared bit by bit.

Validations made at tuning time may not hold for other flags, other data or a rare sample. A difference ends the plan
for the loader at once. Plain batches are made in forked children, so that they leave no trace.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing.util
import os
import sys
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from plumb.core.config import Config
from plumb.core.errors import one_line
from plumb.core.log import logger
from plumb.instrument.dataset_generators import Generators
from plumb.instrument.values import digest_of_comparable
from plumb.runtime.checks.check_rate import CheckTimes, asked_rate_or_default
from plumb.runtime.guards.guard import Finding, IdleGuard, Verdict
from plumb.runtime.marked_batches import CheckedBatch, CheckedIndices, ReadRecord
from plumb.runtime.plain_batches import BatchVersion, PlainBatches
from plumb.runtime.store.store import Store

_log = logger(__name__)

# Time limit for a plain batch of unknown cost; the least limit; and the factor for a known cost.
_UNKNOWN_SECONDS, _SHORTEST_SECONDS, _PATIENCE = 30.0, 10.0, 5.0
# What multiprocessing itself registers, to end at the end of a process, has no more than 100.
_BEFORE_OTHERS = 200
_MOST_FAILURES, _MOST_UNDECIDED = 2, 8


@dataclass
class Tally:
    """Results of one loader's checks; `checked` counts the compared batches."""

    name: str
    checked: int = 0
    equal: int = 0
    differing: int = 0
    seconds: float = 0.0
    reasons: list[str] = field(default_factory=list)
    """Reasons why batches could not be compared."""

    def __str__(self) -> str:
        """Return one line for the user."""
        if not self.checked:
            why = f" ({self.reasons[0]})" if self.reasons else ""
            return f"no batch of {self.name} was compared with a plain one{why}"
        noun = "batch" if self.checked == 1 else "batches"
        result = f"{self.differing} differed" if self.differing else "no difference"
        why = f" ({', '.join(self.reasons)})" if self.reasons else ""
        return f"{self.checked} {noun} of {self.name} made a second time, plainly, and compared: {result}{why}"


tallies: list[Tally] = []
"""Tallies of all loaders that were checked in this process."""


class CheckHistory:
    """State of the checks of one loader, or of all loaders that a script makes for one entry of a plan.

    `seen` are the configurations that have read batches; `unchecked` counts batches since the last check without a
    difference. `is_over` means that nothing is checked any more, also after a `difference`, because then the script's
    own configuration reads.
    """

    def __init__(self, tally: Tally, times: CheckTimes) -> None:
        self.tally = tally
        self.times = times
        self.seen: list[Config] = []
        self.epoch = 0
        self.unchecked = 0
        self.failures = 0
        self.undecided = 0
        self.plain_seconds: float | None = None
        self.difference: str | None = None
        self.is_over = False
        tallies.append(tally)

    def note(self, reason: str) -> None:
        """Store why a batch could not be compared."""
        if reason not in self.tally.reasons:
            self.tally.reasons.append(reason)


_histories: dict[Hashable, CheckHistory] = {}


def check_guard(
    loader: DataLoader[Any],
    name: str,
    users: Config,
    plain_rate: float | None = None,
    on_difference: Callable[[str], None] | None = None,
    entry: Hashable = None,
) -> CheckGuard | None:
    """Return the guard that checks the batches of a loader; None if the user wants none, or batches can't be remade.

    Args:
        loader: The user's loader.
        name: The user's name for it.
        users: Configuration that the script gave it.
        plain_rate: Samples per second that it reached on that configuration, None if unknown.
        on_difference: Called with the reason, in one line, when batches differ.
        entry: Key of the loader's entry in a plan file: loaders of one entry, such as those that a script remakes for
            each epoch, share one history. None for a history of its own.
    """
    rate = asked_rate_or_default()
    if rate == 0 or isinstance(loader.dataset, IterableDataset) or not hasattr(os, "fork"):
        return None
    if rate is not None or _log.isEnabledFor(logging.DEBUG):
        _say_at_the_end()
    history = _histories.get(entry) or CheckHistory(Tally(name), CheckTimes(rate))
    if entry is not None:
        _histories[entry] = history
    return CheckGuard(history, users, plain_rate, on_difference)


class CheckGuard(IdleGuard):
    """Guard that marks batches to be checked, and later compares them with those of the user's configuration."""

    def __init__(
        self,
        history: CheckHistory,
        users: Config,
        plain_rate: float | None = None,
        on_difference: Callable[[str], None] | None = None,
    ) -> None:
        self.history = history
        self._users = users
        self._plain_rate = plain_rate
        self._on_difference = on_difference
        self._loader: Callable[[], DataLoader[Any] | None] = lambda: None
        self._pending: set[int] = set()

    def segment_begins(self, config: Config) -> None:
        """Check the first batches again if `config` has not read any yet."""
        if not any(config.runs_like(each) for each in self.history.seen):
            self.history.seen.append(config)
            self.history.times.configuration_begins()

    def epoch_begins(self, loader: DataLoader[Any]) -> Finding | None:
        """Register the loader and a new epoch. Return the finding of an earlier difference, if any."""
        self._loader = weakref.ref(loader)
        self._pending.clear()
        self.history.epoch += 1
        self.history.times.epoch_begins()
        return None if self.history.difference is None else Finding(Verdict.PLAIN, self.history.difference)

    def indices(self, number: int, indices: Any) -> Any:
        """Mark a batch if it is to be checked."""
        if self.history.is_over or not (number in self._pending or self.history.times.wants()):
            return indices
        self._pending.add(number)
        self.history.times.begun()
        return CheckedIndices(indices, self._users.num_workers > 0, self._limit_seconds(indices))

    def batch_read(self, number: int, indices: Any, batch: Any) -> tuple[Any, Finding | None]:
        """Compare a marked batch with that of the user's own configuration for its indices."""
        self.history.unchecked += 1
        if not isinstance(batch, CheckedBatch):
            return batch, None
        self._pending.discard(number)
        loader, finding = self._loader(), None
        if loader is not None and not self.history.is_over:
            begun = time.perf_counter()
            plainly = PlainBatches(loader.dataset, loader.collate_fn, loader._auto_collation)
            finding = self._compared(plainly, number, indices, batch)
            seconds = time.perf_counter() - begun + batch.note.seconds
            self.history.tally.seconds += seconds
            self.history.times.spent(seconds)
        return batch.batch, finding

    def _compared(self, plainly: PlainBatches, number: int, indices: Any, batch: CheckedBatch) -> Finding | None:
        note = batch.note
        told = digest_of_comparable(batch.batch)
        if told is None:
            self._give_up("they hold what can't be compared")
            return None
        if not told.is_whole:
            self.history.note("parts of its batches can't be compared")
        delivered = BatchVersion(told.digest, note.after, not note.makes_generators)
        begun = time.perf_counter()
        limit = self._limit_seconds(indices)
        plain = note.plain or plainly.in_child(indices, note.states, limit)
        self.history.plain_seconds = max(self.history.plain_seconds or 0.0, note.seconds or time.perf_counter() - begun)
        if plain.value is None:
            self.history.failures += 1
            if plain.has_died or self.history.failures >= _MOST_FAILURES:
                self._give_up(f"to make one plainly {plain.reason}")
            return None
        first = plain.value[0]
        if not (delivered.is_whole and first.is_whole):
            self._check_again()
            return None
        self.history.tally.checked += 1
        if first.equals(delivered) or self._has_other_threads(plainly, indices, note, delivered):
            self.history.tally.equal += 1
            self.history.unchecked = 0
            return None
        again = plainly.in_child(indices, note.states, 2 * limit, times=2)
        return self._finding(plainly, number, note, [first, *(again.value or ())])

    def _check_again(self) -> None:
        """Check another batch, because a generator was made with this one, separately in each process."""
        self.history.undecided += 1
        if self.history.undecided < _MOST_UNDECIDED:
            self.history.times.check_next()
        else:
            self._give_up("random generators are made along with samples")

    def _has_other_threads(
        self, plainly: PlainBatches, indices: Any, note: ReadRecord, delivered: BatchVersion
    ) -> bool:
        """Return whether the batch is plain if made with torch's threads, of which a forked child has only one.

        The last bit of a sum may depend on the number of threads.
        """
        if note.threads == 1:
            return False
        try:
            return plainly.here(indices, note.states, note.threads).equals(delivered)
        except Exception as error:
            self.history.note(f"to make one plainly raised {one_line(error)}")
            return False

    def _finding(
        self, plainly: PlainBatches, number: int, note: ReadRecord, plain: Sequence[BatchVersion]
    ) -> Finding | None:
        """Return the finding for a batch that differs from its plain versions; None if these differ among themselves.

        A rewrite whose equality can't be proven is given up; making samples in workers never promised equal ones.
        """
        is_certain = len(plain) > 1 and all(each.equals(plain[0]) for each in plain)
        if not is_certain and not note.rewrites:
            self.history.note("each making gives other samples")
            return None
        self.history.tally.differing += 1
        self.history.is_over = True
        blamed = ", or ".join(note.rewrites) or "made in workers"
        what = "differs from" if is_certain else "can't be proven equal to"
        reason = f"batch {number + 1} of epoch {self.history.epoch} {what} the one that the script's own arguments give"
        if note.store is not None:
            Store(note.store).drop(f"a batch that was made from it {what} a plain one")
        if note.process == os.getpid() and not self._users.num_workers:
            # The batch is remade, with the random numbers that it would have had.
            Generators(plainly.dataset).put_back(note.states)
        if self._on_difference is not None:
            self._on_difference(f"{reason} ({blamed})")
        _say_at_the_end()
        earlier = self.history.unchecked - 1
        wrong = f"{earlier} delivered since the last check may be wrong, too" if earlier else "it was not delivered"
        self.history.difference = f"{reason} ({blamed}); {wrong}"
        return Finding(Verdict.PLAIN, self.history.difference)

    def _give_up(self, reason: str) -> None:
        """End the checks of the loader, which continues unchecked, and print that once."""
        self.history.is_over = True
        self.history.note(reason)
        print(f"plumb: {self.history.tally.name}: batches are not checked from here: {reason}", file=sys.stderr)

    def _limit_seconds(self, indices: Any) -> float:
        """Return the time limit for a plain batch."""
        expected = self.history.plain_seconds
        if expected is None and self._plain_rate:
            samples = len(indices) if hasattr(indices, "__len__") else 1
            expected = samples / self._plain_rate * max(1, self._users.num_workers)
        return _UNKNOWN_SECONDS if expected is None else max(_SHORTEST_SECONDS, _PATIENCE * expected)


def say_tallies() -> None:
    """Print the result of each loader's checks on standard error, in one line."""
    for tally in tallies:
        print(f"plumb: {tally}", file=sys.stderr)


def _say_at_the_end() -> None:
    """Print the tallies when this process ends."""
    if _owner.pid == os.getpid():
        return
    _owner.pid = os.getpid()
    if multiprocessing.parent_process() is None:
        atexit.register(_say_if_owner, os.getpid())
    else:
        # A forked rank ends past what is registered with Python.
        multiprocessing.util.Finalize(None, _say_if_owner, (os.getpid(),), exitpriority=_BEFORE_OTHERS)


@dataclass
class _Owner:
    pid: int = 0


_owner = _Owner()


def _say_if_owner(pid: int) -> None:
    if pid == os.getpid():
        say_tallies()
