"""Detection of lasting changes by samples to what they read, in the process that makes them.

A worker has a copy of the dataset: if a rare sample appends to a list of errors or counts there, neither the script nor
other workers see it. State for the next sample only, such as the presently open file, is no such change: samples are
repeated in a forked child to distinguish it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from plumb.host.forked_trial import in_child
from plumb.instrument.dataset_state import DatasetState
from plumb.instrument.found_change import Change
from plumb.instrument.quick_look import QuickLook
from plumb.instrument.script_reads import names_read_elsewhere

Read = Callable[[Any], Any]

# The first batches are checked closely, later ones within this share of the time.
_LOOKED_AT, _SHARE = 4, 0.002
_WALK_SECONDS, _AGAIN_SECONDS, _LARGE_SECONDS, _CHILD_SECONDS = 0.1, 0.3, 0.03, 60.0
# This many places are tried in a child; those found later count as lasting changes.
_MOST_TRIED = 8


class SampleWrites:
    """Detection of changes by the samples of this process, from batch to batch.

    `missed` counts the batches in which a detected change may have happened before. A cache of samples that only
    samples fill and read is no change, because no other code sees that each worker has its own. One that the user's
    other code names is a result.
    """

    def __init__(self, roots: tuple[Any, ...]) -> None:
        self.missed = 0
        self._unseen = 0
        self._roots = roots
        self._read_elsewhere: frozenset[str] | None = None
        self._harmless: set[str] = set()
        self._tried = 0
        self._batches = 0
        self._first: Any = None
        self._previous: Any = None
        self._due_at = 0.0
        self.begin()

    def begin(self) -> None:
        """Take the present state as the reference; earlier changes count as setup by the samples."""
        met: list[Any] = []
        self._state = DatasetState(self._roots, by_value=True, visit=lambda value, _: met.append(value))
        self._state.look(_WALK_SECONDS, has_windows=False)
        self._functions = self._state.functions
        self._quick = QuickLook(met)

    def found(self, read: Read, indices: Any, other: Any = None) -> str:
        """Return the place of something that the batch at `indices` has changed for good; empty if nothing is detected.

        Args:
            read: Makes the batch at some indices again, called in a child.
            indices: Indices of the latest batch.
            other: Indices of other samples; None for those of the previous batch.
        """
        self._batches += 1
        self._first = indices if self._first is None else self._first
        previous, self._previous = self._previous, indices
        is_due = self._batches <= _LOOKED_AT or time.perf_counter() >= self._due_at
        has_changed = self._quick.has_changed()
        if not (has_changed or is_due):
            self._unseen += 1
            return ""
        changes = self._state.glance(only_nearest=not is_due)
        self._due_at = time.perf_counter() + self._state.seconds / _SHARE if is_due else self._due_at
        before = other if other is not None else (previous if has_changed else self._first)
        lasting = next((each for each in changes if self._lasts(each, read, indices, before)), None)
        if lasting is not None:
            # A quick check detects a change in the batch that made it.
            self.missed = 0 if has_changed and (lasting.is_name or lasting.is_resized) else self._unseen
            return lasting.place
        if has_changed:
            self._quick.was_in_vain()
        self._unseen = 0 if is_due else self._unseen + 1
        return ""

    def _lasts(self, change: Change, read: Read, indices: Any, other: Any) -> bool:
        if change.is_scratch or change.place in self._harmless:
            return False
        if change.is_growth or change.is_item:
            return self._is_read_elsewhere(change.place)
        self._tried += 1
        if self._tried > _MOST_TRIED or other is None:
            return True
        work = partial(read_interleaved, self._roots, read, indices, other)
        outcome = in_child(work, _CHILD_SECONDS)
        if outcome.value is None:
            lasts = change.is_resized
        else:
            changed = outcome.value
            by_any = changed.by_other | changed.by_first_in_process
            lasts = change.place in changed.again or (change.place not in by_any and not change.is_object)
        if not lasts:
            self._harmless.add(change.place)
        return lasts

    def _is_read_elsewhere(self, place: str) -> bool:
        if self._read_elsewhere is None:
            self._read_elsewhere = names_read_elsewhere(self._functions)
        return place.replace(" ", ".").rsplit(".", 1)[-1] in self._read_elsewhere


@dataclass(frozen=True)
class Interleaved:
    """Places that change while two batches are read in turns in a new process.

    Those in `again` differ when the first is reread: counters, or state that advances. What the other batch changes, in
    `by_other`, is not for good. What it changes as the first batch of the process, in `by_first_in_process`, each
    process sets up for itself, such as a file that is opened again where the process id is another.
    """

    again: frozenset[str]
    by_other: frozenset[str]
    by_first_in_process: frozenset[str]


def read_interleaved(roots: tuple[Any, ...], read: Read, indices: Any, other: Any) -> Interleaved:
    """Read two batches in turns, and return what changes."""
    at_start, of_first, of_other = (DatasetState(roots, by_value=True) for _ in range(3))
    look_at_start, look_at_first, look_at_other = (
        partial(state.look, _AGAIN_SECONDS, window_seconds=_LARGE_SECONDS) for state in (at_start, of_first, of_other)
    )
    look_at_start()
    _read_seeded(read, other)
    by_first_in_process = look_at_start()
    _read_seeded(read, indices)
    look_at_first()
    look_at_other()
    _read_seeded(read, other)
    by_other = look_at_other()
    _read_seeded(read, indices)
    again = look_at_first()
    return Interleaved(_places(again), _places(by_other), _places(by_first_in_process))


def _places(changes: Iterable[Change]) -> frozenset[str]:
    return frozenset(each.place for each in changes)


def _read_seeded(read: Read, indices: Any) -> None:
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)
    read(indices)
