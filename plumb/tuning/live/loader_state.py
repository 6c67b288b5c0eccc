"""State of one loader from epoch to epoch, and the entry point `live_iterator`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset

from plumb.core.config import Config
from plumb.core.plan import Trial
from plumb.instrument.torch_loader import DataLoader
from plumb.instrument.worker_identity import why_worker_matters
from plumb.runtime.checks.running_checks import check_guard
from plumb.runtime.epoch.epoch_order import EpochOrder, draw_order, packed, unpacked
from plumb.runtime.epoch.index_forecast import IndexForecast
from plumb.runtime.guards.sampler_guard import SamplerWatch
from plumb.runtime.loader import current_config, rebuild
from plumb.tuning.dataset_settings import Settings, settings_of
from plumb.tuning.live.controller import LiveController
from plumb.tuning.live.live_iterator import LiveIterator, LiveRun

_VERSION = 1
# Keyed by identity, because a user's subclass may define equality or have no hash.
_tunings: dict[int, LiveTuning] = {}


def live_iterator(loader: DataLoader[Any]) -> Iterator[Any]:
    """Return the next epoch of `loader` in place of `iter(loader)`: the same batches in the same order, but faster.

    The loader is tuned over all of its epochs; `tuning_of(loader)` has the results. An iterable dataset, a loader with
    `in_order=False`, and one whose samples may depend on the worker that makes them are delivered by torch alone,
    because another number of workers would change their result.

    Raises:
        Exception: What the sampler and the dataset raise.

    """
    return tuning_of(loader).begin(loader)


def tuning_of(loader: DataLoader[Any]) -> LiveTuning:
    """Return the tuning of `loader`, which begins with its first epoch or with a loaded state."""
    tuning = _tunings.get(id(loader))
    if tuning is None:
        tuning = _tunings[id(loader)] = LiveTuning(loader)
        weakref.finalize(loader, _forget, id(loader)).atexit = False
    return tuning


def _forget(key: int) -> None:
    tuning = _tunings.pop(key, None)
    if tuning is not None:
        tuning.let_go()


class LiveTuning:
    """Tuning of one loader during training, and its position in the current epoch."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = weakref.ref(loader)
        self._epochs_begun = 0
        self._latest: Callable[[], Any] = lambda: None
        self._lasting: LiveIterator | None = None
        self._resumed: dict[str, Any] | None = None
        self._begin_tuning(loader)

    def _begin_tuning(self, loader: DataLoader[Any]) -> None:
        own = current_config(loader)
        why = why_worker_matters(loader)
        self._is_untouched = isinstance(loader.dataset, IterableDataset) or not own.in_order or why is not None
        checks = None if self._is_untouched else check_guard(loader, type(loader.dataset).__name__, own)
        # The run refers to the pilot. The pilot refers to the run only weakly, or the garbage collector would end
        # workers.
        known: list[weakref.ref[LiveRun]] = []

        def why_no_workers() -> str | None:
            run = known[0]() if known else None
            return None if run is None else run.state.why_plain()

        settings = settings_of(loader.dataset) or Settings()
        run = self._run = LiveRun(own, LiveController(own, why_no_workers, settings), checks=checks)
        known.append(weakref.ref(run))
        if why is not None:
            run.steering.stay_plain(why)
        if checks is not None:
            run.guards.add(checks)
        self._lasting = None

    @property
    def config(self) -> Config:
        """Configuration that the loop runs on, or will as soon as possible."""
        return self._run.own if self._is_untouched else self._run.steering.wanted

    @property
    def is_settled(self) -> bool:
        """True if nothing is being tried at present."""
        return self._is_untouched or self._run.steering.is_settled

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All configurations that ran, in order, with the rate of the user's loop and the outcome."""
        return tuple(self._run.steering.trials)

    def let_go(self) -> None:
        """End the workers kept for another epoch, because there won't be one."""
        kept, self._run.kept, self._lasting = self._run.kept, None, None
        self._run.steering.let_go()
        latest = self._latest()
        if kept is not None and (latest is None or latest.is_over):
            kept.close()

    # ---- epochs

    def begin(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """Return the next epoch's iterator. Raise what the sampler raises."""
        if current_config(loader) != self._run.own:
            self.let_go()
            self._begin_tuning(loader)
        resumed, self._resumed = self._resumed, None
        if resumed is not None and "generator" in resumed and loader.generator is not None:
            loader.generator.set_state(resumed["generator"])
        if resumed is not None and "delivered" not in resumed:
            resumed = None
        if self._is_untouched:
            return self._torch_s(loader, resumed)
        run, own = self._run, self._run.own
        is_reset = own.persistent_workers and self._epochs_begun > 0
        self._epochs_begun += resumed is None
        order, seed_state = _order(loader, own, is_reset, resumed)
        template = rebuild(loader, own, None)
        template.generator = loader.generator
        run.steering.begin(template, order.length)
        self._renew_workers()
        iterator = self._lasting
        if iterator is not None:
            iterator.renew(template, order, seed_state)
            return iterator
        iterator = LiveIterator(template, run, order, seed_state)
        self._latest = weakref.ref(iterator)
        if own.persistent_workers:
            self._lasting = iterator
        return iterator

    def _renew_workers(self) -> None:
        """Release kept workers that can't continue because an unfinished epoch still uses them."""
        run, latest = self._run, self._latest()
        if not run.own.persistent_workers and latest is not None and not latest.is_over:
            run.kept = None

    def _torch_s(self, loader: DataLoader[Any], resumed: dict[str, Any] | None) -> Iterator[Any]:
        """Return torch's own iterator, advanced to the position at which an epoch was left."""
        self._epochs_begun += 1
        batches = DataLoader.__iter__(loader)
        for _ in range(int(resumed["delivered"]) if resumed else 0):
            if next(batches, self) is self:
                break
        self._latest = weakref.ref(batches)
        return batches

    # ---- position in an epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the state with which `load_state_dict` continues after the last delivered batch: tensors and values.

        If the sampler has a length, it is drawn to the end of its epoch, and the state holds the remaining indices, 8
        bytes for each sample. If it has none, or if the dataset is iterable, the state holds the number of delivered
        batches, which are skipped in the next epoch. The state of the loader's own generator is included; the process's
        generator is not, because checkpoints contain it anyway.

        Raises:
            ValueError: The loader has `in_order=False`, so delivered batches can't be told from others.
            Exception: What the sampler raises.

        """
        iterator = self._latest()
        state: dict[str, Any] = {"version": _VERSION, "epochs_begun": self._epochs_begun}
        if self._is_untouched:
            if not self._run.own.in_order:
                raise ValueError("a loader with in_order=False can't be resumed: which batches came is not known")
            if iterator is not None:
                state["delivered"] = iterator._num_yielded
            return state
        if iterator is not None and not iterator.is_over:
            remaining = iterator.order.remaining()
            state |= {"delivered": iterator.order.delivered, "seeds": iterator.seed_state}
            if remaining is not None:
                state["remaining"] = packed(remaining)
        loader = self._loader()
        if loader is not None and loader.generator is not None:
            state["generator"] = loader.generator.get_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next epoch the rest of the one in which `state` was taken. Raise ValueError for any other state."""
        if state.get("version") != _VERSION:
            raise ValueError("this is no state of a live loader that this plumb can read: begin the epoch anew")
        self._epochs_begun = int(state["epochs_begun"])
        self._resumed = state


def _order(
    loader: DataLoader[Any], own: Config, is_reset: bool, resumed: dict[str, Any] | None
) -> tuple[EpochOrder, torch.Tensor]:
    """Return the order of a new epoch, or of the rest of a resumed one."""
    if resumed is not None and "remaining" in resumed:
        delivered, rest = int(resumed["delivered"]), unpacked(resumed["remaining"])
        watch = SamplerWatch(rest, loader.dataset)
        length = delivered + len(rest)
        return EpochOrder(IndexForecast(rest), watch, length, own.batches_in_flight, delivered), resumed["seeds"]
    order, seed_state = draw_order(loader, own, is_reset)
    while resumed is not None and order.delivered < resumed["delivered"] and order.has_next:
        next(order)
        order.deliver()
    return order, seed_state
