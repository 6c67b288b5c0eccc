"""Guard of everything that samples are made from, for scripts or samples that change it.

Workers have copies, stores have values, and both are made ahead of time. If the user's own configuration makes each
sample on request, a change must not take effect late.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.core.sized import length_of
from plumb.instrument.dataset_state import EPOCH_SECONDS, FIRST_SECONDS, DatasetState
from plumb.instrument.found_change import Change
from plumb.instrument.object_parts import roots_of
from plumb.instrument.process_settings import process_settings, quick_settings
from plumb.instrument.quick_look import QuickLook
from plumb.instrument.sample_effects import CHILD_SECONDS, sample_effects
from plumb.instrument.sample_files import SampleFiles
from plumb.runtime.guards.guard import Finding, IdleGuard, Verdict

# The first batches of an epoch are each checked; later ones within this share of the time, and at least this often.
_LOOKED_AT, _SHARE, _AT_LAST_SECONDS = 8, 0.002, 2.0
_SHORTEST_LOOK_SECONDS = 0.01
# So many of the nearest values get a quick look before each batch, which takes microseconds.
_NEAREST = 1000
# Samples are tried in a child again if something else changed between epochs, but only this often.
_MOST_TRIED = 4
# Workers that were restarted this many times in a row for fewer batches than they prefetch gain nothing.
_MOST_RENEWED_IN_VAIN = 2
# A child that makes a few samples, for which the loop waits, may take this long, or this multiple of the first batch's
# time; one that takes longer hangs, as with a pool of the dataset's own.
_CHILD_AT_LEAST_SECONDS, _CHILD_WAITS = 12.0, 8.0


class StateGuard(IdleGuard):
    """Guard of one loader whose user's configuration is `own`.

    After a change between epochs, workers and their batches are renewed. After a change by the loop within an epoch, if
    the user has no workers, the user's own configuration reads from there on; likewise if samples change what they
    read, which is tried in a forked child before the first batch is delivered.

    Args:
        own: Configuration that the script gave the loader.
        wanted: Returns the configuration on which the loader should run.
        reads_here: Returns whether the present batch is made in this process.
    """

    def __init__(self, own: Config, wanted: Callable[[], Config], reads_here: Callable[[], bool]) -> None:
        self._own = own
        self._wanted = wanted
        self._reads_here = reads_here
        self._state: DatasetState | None = None
        self._epoch_begun_at = 0.0
        self._batches = 0
        self._due_at = 0.0
        self._is_seen = False
        self._is_asked_for = False
        self._was_here = False
        # Places that were seen to change while batches were made here.
        self._by_samples: set[str] = set()
        self._changed_within = ""
        self._places: set[str] = set()
        self._to_be_tried = True
        self._tried = 0
        self._finding: Finding | None = None
        self._loader: DataLoader[Any] | None = None
        self._latest: Any = None
        self._nearest: list[Any] | None = None
        self._quick: QuickLook | None = None
        self._settings: dict[str, Any] = {}
        self._files = SampleFiles()
        self._renewals_in_vain = 0

    def why_plain(self) -> str | None:
        """Return why the user's own configuration must read, else None; try samples in a child if none were yet."""
        if self._latest is not None:
            self._try_samples(self._latest)
        return None if self._finding is None else self._finding.reason

    def is_as_at_the_start(self) -> bool:
        """Return whether samples are made from the state at the epoch's start, as far as a quick check shows."""
        if self._state is None or self._was_here:
            return True
        self._changed_within = self._changed_within or _first(self._state.glance())
        return not self._changed_within

    # ---- hooks

    def epoch_begins(self, loader: DataLoader[Any]) -> Finding | None:
        """Find changes since the previous epoch."""
        now, batches = time.perf_counter(), self._batches
        box = min(EPOCH_SECONDS, max(_SHORTEST_LOOK_SECONDS, _SHARE * (now - self._epoch_begun_at)))
        self._epoch_begun_at, self._batches, self._due_at = now, 0, 0.0
        self._loader = loader
        if self._state is None:
            box = FIRST_SECONDS
            self._state = DatasetState(roots_of(loader), skips_shared=self._own.num_workers > 0, visit=self._meet)
        self._state.follow(roots_of(loader))
        nearest: list[Any] = []
        self._nearest = nearest
        changes = self._state.look(box)
        self._quick, self._nearest = QuickLook(nearest), None
        self._is_seen = True
        setting = self._changed_setting()
        place = self._files.changed() or self._changed_within or _first(changes) or setting
        self._changed_within = ""
        if not place or self._own.persistent_workers:
            # The user's own persistent workers don't see changes, either.
            return None
        if any(change.place not in self._places for change in changes):
            self._places.update(change.place for change in changes)
            self._to_be_tried = True
        wanted = self._wanted()
        is_in_vain = not self._own.num_workers and batches <= max(1, wanted.batches_in_flight)
        self._renewals_in_vain = self._renewals_in_vain + 1 if is_in_vain else 0
        if self._renewals_in_vain > _MOST_RENEWED_IN_VAIN:
            few = f"{batches} batches" if batches > 1 else "one batch"
            why = f"the script changes {place} each time that it has read {few}, and workers would be started again"
            return Finding(Verdict.PLAIN, why)
        return Finding(Verdict.RENEW, f"the script changes {place} between epochs")

    def batch_wanted(self, loader: DataLoader[Any]) -> Finding | None:
        """Find the loop's changes, at each of the first batches and from time to time later."""
        self._loader = loader
        wanted = self._wanted()
        if self._batches == 0 and not wanted.num_workers and (wanted.needs_runtime or self._own.num_workers):
            # A batch made here must not be made twice, so its indices can't be waited for.
            self._try_samples(range(min(2, length_of(loader.dataset) or 0)), is_guess=True)
        if self._finding is not None:
            return self._finding
        self._batches += 1
        is_seen, self._is_seen = self._is_seen, False
        # The quick look was taken anew after the latest batch, so what differs now is by the loop. One change suffices
        # until the next epoch.
        may_tell = not self._changed_within
        has_changed = may_tell and self._quick is not None and self._quick.has_changed()
        has_other_settings = may_tell and self._has_other_settings()
        is_due = has_other_settings or self._batches <= _LOOKED_AT or time.perf_counter() >= self._due_at
        if self._state is None or not (is_due or has_changed):
            return None
        changes = self._state.glance(only_nearest=self._was_here)
        if self._was_here and not is_seen:
            # Samples, which are made here, may have made these changes since the latest look.
            changes = tuple(each for each in changes if has_changed and each.place not in self._by_samples)
            self._is_asked_for = True
        place = _first(changes) or self._changed_setting()
        place = place or ("" if self._own.num_workers else self._files.changed_again())
        if has_changed and self._was_here:
            place = place or "what its samples are made from"
        self._due_at = time.perf_counter() + min(_AT_LAST_SECONDS, self._state.seconds / _SHARE)
        if not place:
            if has_changed and self._quick is not None:
                self._quick.was_in_vain()
            return None
        if self._own.num_workers:
            # The user's own workers see it only in the next epoch, too.
            self._changed_within = place
            return None
        return Finding(Verdict.PLAIN, f"the loop changes {place} while an epoch runs")

    def batch_read(self, number: int, indices: Any, batch: Any) -> tuple[Any, Finding | None]:
        """Try samples in a child before the first batch is delivered, and record changes by reading here."""
        was_here, self._was_here = self._was_here, self._reads_here()
        self._latest = indices
        wanted = self._wanted()
        if wanted.num_workers or wanted.needs_runtime or self._own.num_workers:
            self._try_samples(indices)
        is_asked_for = self._is_asked_for or self._batches < _LOOKED_AT or was_here != self._was_here
        if self._state is not None and (was_here or self._was_here) and is_asked_for:
            # Changes by making batches are not the loop's.
            if was_here != self._was_here:
                self._state.forget()
            self._by_samples.update(change.place for change in self._state.glance(only_nearest=True))
            self._changed_setting()
            self._is_seen, self._is_asked_for = True, False
        if self._was_here and self._quick is not None:
            self._quick.absorb()
            self._settings.update(quick_settings())
        return batch, self._finding

    # ---- when, and what

    def _changed_setting(self) -> str:
        before, self._settings = self._settings, process_settings()
        return next((name for name, value in self._settings.items() if before.get(name, value) != value), "")

    def _has_other_settings(self) -> bool:
        return any(self._settings.get(name, value) != value for name, value in quick_settings().items())

    def _meet(self, value: Any, _: str) -> None:
        """Collect the nearest of the values that the look at an epoch's start meets."""
        if self._nearest is not None and len(self._nearest) < _NEAREST:
            self._nearest.append(value)

    def _try_samples(self, indices: Any, is_guess: bool = False) -> None:
        """Make samples in a child, once per state of the dataset.

        The user's own workers have copies of the dataset, too: changes by samples there matter only if other workers
        are wanted. If the indices are a guess, a failing sample means nothing.
        """
        if not self._to_be_tried or self._tried >= _MOST_TRIED or self._loader is None:
            return
        has_generators = self._state is not None and bool(self._state.generators)
        wanted = self._wanted()
        may_draw = has_generators and _workers(wanted) != _workers(self._own)
        # Files that the user's own new workers would reread may become stale in persistent workers, and in stores.
        may_age = (wanted.persistent_workers and not self._own.persistent_workers) or wanted.cache is not None
        # Made here in place of the user's workers, batches are no copies, and what samples change is not lost.
        is_here = not wanted.num_workers
        if self._own.num_workers and not (may_draw or may_age or is_here):
            return
        waited_seconds = min(time.perf_counter() - self._epoch_begun_at, CHILD_SECONDS)
        seconds = max(_CHILD_AT_LEAST_SECONDS, _CHILD_WAITS * waited_seconds)
        # Without a batch sampler, the request is one index, even if it is a list from which the dataset makes a batch.
        is_many = self._loader.batch_sampler is not None or is_guess
        some = indices if is_many else [indices]
        effects = sample_effects(self._loader, some, seconds, skips_shared=self._own.num_workers > 0)
        if is_guess and effects.failure:
            return
        self._to_be_tried = False
        self._tried += 1
        self._files.follow(effects)
        if self._own.num_workers:
            why = effects.why_same_workers if may_draw or is_here else None
            why = why or (effects.why_in_one_process if is_here else None)
        else:
            why = effects.why_in_one_process or (effects.why_not_forked if self._forks(self._loader) else None)
        if why is not None:
            self._finding = Finding(Verdict.PLAIN, why)

    def _forks(self, loader: DataLoader[Any]) -> bool:
        """Return whether workers are, or would be, forked from this process."""
        wanted = self._wanted()
        if not wanted.num_workers and wanted.needs_runtime:
            return False
        context = loader.multiprocessing_context or multiprocessing
        return (wanted.start_method or context.get_start_method()) == "fork"


def _workers(config: Config) -> tuple[int, bool]:
    return config.num_workers, config.persistent_workers


def _first(changes: tuple[Change, ...]) -> str:
    return changes[0].place if changes else ""
