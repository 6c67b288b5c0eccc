"""A user's loader on a planned configuration: every epoch starts as the plan says, in the user's order."""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch.utils.data import IterableDataset

from plumb.core.config import Config
from plumb.core.log import logger
from plumb.core.plan import LoaderResult, files_of
from plumb.core.plan_marks import mark_unsafe
from plumb.host.malloc import Reuse
from plumb.host.process_control import keep_sockets_together
from plumb.instrument.dataset_state import DatasetState
from plumb.instrument.main_module import RUNS_AGAIN, runs_script_again
from plumb.instrument.object_parts import roots_of
from plumb.instrument.saved_state import is_stateful
from plumb.instrument.torch_loader import DataLoader
from plumb.instrument.worker_init import ReopeningInit
from plumb.runtime.checks.running_checks import check_guard
from plumb.runtime.epoch.epoch_iterator import EpochIterator
from plumb.runtime.epoch.epoch_order import draw_order
from plumb.runtime.epoch.loader_run import LoaderRun, state_guard
from plumb.runtime.epoch.persistent_epochs import PersistentEpochs
from plumb.runtime.epoch_start import Epochs
from plumb.runtime.guards.guard import Finding, Guards, IdleGuard, Verdict
from plumb.runtime.guards.own_workers import OwnWorkers
from plumb.runtime.guards.state_guard import StateGuard
from plumb.runtime.iterator_setup import IteratorSetup, exchanged
from plumb.runtime.loader import rebuild
from plumb.runtime.loader_clock import clock_of
from plumb.runtime.run_clock import RunClock
from plumb.runtime.unchecked_loaders import is_read_by_index, makes_own_iterator, why_unchecked
from plumb.runtime.watched_iterator import start_watched, watch_changes

_log = logger(__name__)

Say = Callable[[str], None]


class PlannedLoader:
    """Starter of a loader's epochs on its plan; `users` is the configuration that the script gave it.

    `given` are the script's own values of the attributes that the plan has set on the loader. Exists as long as the
    loader; meanwhile the process reuses its memory if the plan says so. Only a measurement of the guards' cost turns
    them off, by `is_guarded`. The epochs are measured by `clock`, or by one of the loader's own.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        planned: LoaderResult,
        users: Config,
        given: Mapping[str, Any] | None = None,
        is_guarded: bool = True,
        clock: RunClock | None = None,
    ) -> None:
        config = self._config = planned.config
        self._users = users
        # For an identified loader, the code has been compared already.
        ways = partial(IteratorSetup, config, planned.rewrites, is_planned=not planned.is_identified)
        self._running = ways() if config.needs_runtime else None
        self._reuse = Reuse() if config.allocator_reuse else None
        self._clock = clock or clock_of(loader, planned, users)
        self._steering = PlanSteering(planned, users, self._clock)
        self._given = given or {}
        self._own_workers = OwnWorkers(users, config, frozenset(planned.workers_compared))
        checks = None
        if is_guarded:
            checks = check_guard(
                loader,
                planned.name,
                users,
                planned.baseline.samples_per_second,
                on_difference=partial(mark_unsafe, planned),
                entry=next(iter(files_of(planned)), None),
            )
        # An iterator of torch's own has no guards, and nothing is marked for it.
        checked = ways(is_checked=True) if checks else self._running
        run = self._run = LoaderRun(users, self._steering, Guards(), checked, checks)
        if is_guarded:
            run.guards.add(state_guard(run))
        if checked is not None and is_guarded:
            run.guards.add(_StoreGuard(checked))
        if checks is not None:
            run.guards.add(checks)
        run.slowest_seconds = _batch_seconds(planned)
        run.clock = self._clock
        unchecked = config.without_rewrites()
        self._unchecked = IteratorSetup(unchecked, planned.rewrites) if unchecked.needs_runtime else None
        self._on_torchs = _OnTorchsIterator(loader, users, self._unchecked)
        self._epochs_begun = 0
        self._latest: Callable[[], EpochIterator | None] = lambda: None
        self._lasting: EpochIterator | None = None

    def rehearse(self, patience_seconds: float) -> None:
        """Give up workers that deliver nothing for `patience_seconds`: in a tuning nobody waits a minute for them."""
        self._run.patience_seconds = patience_seconds

    @property
    def is_left(self) -> bool:
        """True if the script's own configuration reads everything from now on."""
        return self._run.is_plain or self._steering.is_left

    def start(
        self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], say: Say, asked: float | None = None
    ) -> Iterator[Any]:
        """Return the next epoch's iterator; torch's `start` makes or resets it if plumb's own can't read the epoch.

        The loader has the plan's arguments. `asked` is the time of the request for the iterator, None for now. Raises
        the sampler's errors.
        """
        if is_stateful(loader):
            return self._start_stateful(loader, start, say)
        if self._must_run_plainly(loader, say):
            with exchanged(loader, attributes_of(loader, self._users)):
                return start()
        if self._is_unwatched(loader):
            return self._start_alone(loader, start, say)
        if not self._reads_as_torch_would(loader) or not _has(loader, attributes_of(loader, self._config)):
            self._say_what_is_left_out(loader, say)
            return self._on_torchs.start(loader, start, say)
        return self._measured(loader, say, asked)

    def start_unseen(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], say: Say) -> Iterator[Any]:
        """Return the next epoch's iterator of a loader that keeps the script's own arguments."""
        if is_stateful(loader):
            return self._start_stateful(loader, start, say)
        if self._must_run_plainly(loader, say):
            return start()
        if self._is_unwatched(loader):
            return self._start_alone(loader, start, say)
        if self._reads_as_torch_would(loader):
            return self._measured(loader, say)
        self._say_what_is_left_out(loader, say)
        with exchanged(loader, attributes_of(loader, self._config)):
            return self._on_torchs.start(loader, start, say)

    def _start_stateful(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], say: Say) -> Iterator[Any]:
        """Start an epoch of a loader that saves its place: on its own iterator, with the script's own workers.

        So the script can load a saved state without a plan, and vice versa.
        """
        if not self._users.num_workers and not isinstance(loader.dataset, IterableDataset):
            return self._start_alone(loader, start, say)
        self._say_what_is_left_out(loader, say)
        with exchanged(loader, attributes_of(loader, self._users)):
            return start() if self._unchecked is None else self._unchecked.start(loader, start)

    def _say_what_is_left_out(self, loader: DataLoader[Any], say: Say) -> None:
        """Say that samples are made as the script does, where the plan has another way that could not be checked."""
        if self._config.rewrites_samples:
            why = why_unchecked(loader, self._users) or "the script changed its arguments"
            say(
                f"{self._steering.loader}: its batches can't be checked while it runs ({why}); its samples are made as "
                "the script has it"
            )

    def _is_unwatched(self, loader: DataLoader[Any]) -> bool:
        """Return whether the script has no workers, and plumb's own iterator can't read the map-style dataset."""
        return not self._users.num_workers and is_read_by_index(loader) and not self._reads_as_torch_would(loader)

    def _start_alone(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], say: Say) -> Iterator[Any]:
        """Start an epoch on the loader's own iterator without workers, whose batches can be guarded."""
        run = self._run
        self._steering.say = say
        self._steering.leave_out_workers()
        has_rewrites = self._running is not None and not self._config.deferred
        if self._config.num_workers and not is_stateful(loader):
            say(
                f"{self._steering.loader}: its class makes its own iterator; workers are left out, as the script has it"
            )
        with exchanged(loader, attributes_of(loader, self._users)):
            if not has_rewrites:
                return start()
            with exchanged(loader, self._given):
                template = rebuild(loader, self._users, None)
            return start_watched(run, loader, template, start)

    def _must_run_plainly(self, loader: DataLoader[Any], say: Say) -> bool:
        """Return whether the plan's workers must not be used; say why."""
        why = self._own_workers.why_plain(loader)
        if why is not None:
            say(f"{self._steering.loader}: {why}; it runs as the script has it")
        return why is not None or self._runs_script_again(loader, say)

    def _runs_script_again(self, loader: DataLoader[Any], say: Say) -> bool:
        """Return whether the plan's workers, and not the script's, would now run the script's main part.

        A script may choose the start method after it has made its loaders.
        """
        context = loader.multiprocessing_context
        if not runs_script_again(self._config, context) or runs_script_again(self._users, context):
            return False
        say(f"{self._steering.loader} {RUNS_AGAIN}")
        return True

    def _reads_as_torch_would(self, loader: DataLoader[Any]) -> bool:
        """Return whether plumb's own iterator can read the loader's epochs: by indices in a fixed order."""
        # If the script has no workers, the order is fixed, even if it says otherwise for workers.
        in_order = not self._users.num_workers or (self._users.in_order and self._config.in_order)
        is_plain = is_read_by_index(loader) and not makes_own_iterator(loader)
        # Where a segment begins in the middle of an epoch, another worker would make the next batch.
        return in_order and is_plain and not self._own_workers.matter(loader)

    def _measured(self, loader: DataLoader[Any], say: Say, asked: float | None = None) -> Iterator[Any]:
        clock = self._clock
        if clock is None or clock.is_over:
            return self._begun(loader, say)
        asked = time.perf_counter() if asked is None else asked
        clock.epoch_begins()
        batches = self._begun(loader, say)
        clock.epoch_begun(asked, time.perf_counter())
        return batches

    def _begun(self, loader: DataLoader[Any], say: Say) -> Iterator[Any]:
        self._steering.say = say
        run, users = self._run, self._users
        if not self._steering.wanted.allocator_reuse:
            self._reuse = None
        elif self._reuse is None:
            self._reuse = Reuse()
        is_reset = users.persistent_workers and self._epochs_begun > 0
        order, seed_state = draw_order(loader, users, is_reset)
        self._epochs_begun += 1
        with exchanged(loader, self._given):
            template = rebuild(loader, users, None)
        latest = self._latest()
        if self._lasting is not None:
            self._lasting.renew(template, order, seed_state)
            return self._lasting
        if latest is not None and not latest.is_over:
            # The workers still read an epoch that the script may continue.
            run.kept = None
        iterator = EpochIterator(template, run, order, seed_state)
        self._latest = weakref.ref(iterator)
        if users.persistent_workers:
            # Torch returns the same iterator for each epoch, reset.
            self._lasting = iterator
        return iterator


class PlanSteering:
    """Steering that wants the plan's configuration until it fails; then the user's own, with one line.

    It also wants the user's own configuration while `clock` does.
    """

    def __init__(self, planned: LoaderResult, users: Config, clock: RunClock | None = None) -> None:
        self.rewrites = planned.rewrites
        # Batches in arbitrary order can't be guarded, because their indices are unknown.
        self._plans = planned.config if users.num_workers else dataclasses.replace(planned.config, in_order=True)
        self._clock = clock
        self.say: Say = lambda text: None
        self.loader = f"{planned.name} ({planned.site})"
        self._users = users
        self._is_plain = False

    @property
    def wanted(self) -> Config:
        """Configuration of the plan, or the user's own."""
        wants_own = self._is_plain or (self._clock is not None and self._clock.wants_own)
        return self._users if wants_own else self._plans

    @property
    def is_left(self) -> bool:
        """True once the user's own configuration is wanted for good."""
        return self._is_plain

    def failed(self, config: Config, reason: str) -> None:
        """Want the user's own configuration from now on if `config`, the wanted one, could not be run."""
        if config.runs_like(self._plans) and not self._is_plain:
            self.stay_plain(f"{config} failed ({reason})")

    def stay_plain(self, reason: str) -> None:
        """Want the user's own configuration from now on."""
        _log.info("%s leaves its plan: %s", self.loader, reason)
        self._is_plain = True
        if self._clock is not None:
            self._clock.give_up()
        self.say(f"{self.loader}: {reason}; from here on it runs as the script has it")

    def leave_out_workers(self) -> None:
        """Want the same configuration without workers."""
        self._plans = dataclasses.replace(self._plans, num_workers=0, prefetch_factor=None, persistent_workers=False)

    def renewed(self, reason: str) -> None:
        """Print that workers are started again."""
        _log.info("%s: workers are started again: %s", self.loader, reason)
        self.say(f"{reason}: workers are started again, so that they see it")


class _StoreGuard(IdleGuard):
    """Guard that finds a store with the values of an earlier state of the dataset."""

    def __init__(self, running: IteratorSetup) -> None:
        self._running = running

    def epoch_begins(self, loader: DataLoader[Any]) -> Finding | None:
        """Compare the dataset with the store's."""
        is_stale = self._running.is_stale(loader.dataset)
        return Finding(Verdict.RENEW, "the script changes its dataset between epochs") if is_stale else None


class _OnTorchsIterator:
    """Starter of epochs of datasets that can't be read by indices, and of subclasses that read in their own way.

    Their iterator is torch's own, on the plan's arguments. Persistent workers are renewed if the script has changed the
    dataset; if it does so within an epoch, and has no workers itself, the next epoch has none.
    """

    def __init__(self, loader: DataLoader[Any], users: Config, running: IteratorSetup | None) -> None:
        self._users = users
        self._is_plain = False
        self._running = running
        self._epochs = Epochs(loader, users)
        self._handing = PersistentEpochs()
        self._state = DatasetState(roots_of(loader), skips_shared=users.num_workers > 0)

    def start(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], say: Say) -> Iterator[Any]:
        """Return the next epoch's iterator, which torch's `start` makes or resets."""
        if self._is_plain:
            self._handing.renew()
            with exchanged(loader, attributes_of(loader, self._users)):
                return start()
        is_stale = bool(self._state.look()) if loader.persistent_workers else False
        if is_stale and self._handing.has_workers:
            say("the script changes its dataset between epochs: workers are started again, so that they see it")
            self._handing.renew()
        epoch = partial(self._epochs.start, loader, start)
        if self._running is not None:
            epoch = partial(self._running.start, loader, epoch)
        if loader.num_workers and not self._users.num_workers:
            epoch = partial(self._watched, loader, epoch, say)
        if loader.persistent_workers:
            keep_sockets_together()
        persists_by_plan = loader.persistent_workers and not self._users.persistent_workers
        with exchanged(loader, {"worker_init_fn": ReopeningInit(loader.worker_init_fn)} if loader.num_workers else {}):
            return self._handing.start(loader, epoch) if persists_by_plan else epoch()

    def _watched(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], say: Say) -> Iterator[Any]:
        config = Config(loader.num_workers, loader.prefetch_factor)
        batches, ahead = start(), config.batches_in_flight
        guard = StateGuard(self._users, lambda: config, lambda: False)

        def found(reason: str) -> None:
            self._is_plain = True
            say(f"{reason}: up to {ahead} batches show it late, and the next epoch is read as the script has it")

        guard.epoch_begins(loader)
        watch_changes(batches, guard, loader, found)
        return batches


def attributes_of(loader: DataLoader[Any], config: Config) -> dict[str, Any]:
    """Return the attributes that `loader` must have at `iter` to run on `config`, as far as this torch has them.

    The timeout is 0 without workers, because torch refuses any other one.
    """
    attributes: dict[str, Any] = {
        "num_workers": config.num_workers,
        "prefetch_factor": config.prefetch_factor,
        "persistent_workers": config.persistent_workers,
        "pin_memory": config.pin_memory,
        "in_order": config.in_order,
        "timeout": loader.timeout if config.num_workers else 0,
    }
    if config.start_method and config.num_workers:
        attributes["multiprocessing_context"] = config.start_method
    return {name: value for name, value in attributes.items() if hasattr(loader, name)}


def _has(loader: DataLoader[Any], attributes: dict[str, Any]) -> bool:
    """Return whether a loader's attributes are still as the plan set them; a start method is skipped."""
    return all(
        name == "multiprocessing_context" or getattr(loader, name) == value for name, value in attributes.items()
    )


def _batch_seconds(planned: LoaderResult) -> float:
    """Return the seconds that a worker takes for a batch, by the plan."""
    rate = planned.tuned.samples_per_second
    return (planned.batch_size or 1) * max(planned.config.num_workers, 1) / rate if rate else 0.0
