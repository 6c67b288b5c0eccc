"""What is known of one loader from epoch to epoch, and the way in: `live_iterator`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset

from plumb.config import Config
from plumb.live.iterator import LiveIterator, LiveRun
from plumb.live.pilot import Pilot
from plumb.plan import Trial
from plumb.runtime.checks import check_guard
from plumb.runtime.epoch_order import EpochOrder, drawn, packed, unpacked
from plumb.runtime.index_forecast import Forecast
from plumb.runtime.loader import current_config, rebuild
from plumb.runtime.sampler_watch import SamplerWatch
from plumb.torch_loader import DataLoader

_VERSION = 1
# By identity: a subclass of the user's may be equal to others, or have no hash.
_tunings: dict[int, LiveTuning] = {}


def live_iterator(loader: DataLoader[Any]) -> Iterator[Any]:
    """The next epoch of `loader`, in place of `iter(loader)`: the same batches in the same order, ever faster.

    The loader is tuned by the way, over all of its epochs; `tuning_of(loader)` tells what came of it. An iterable
    dataset is delivered by torch alone, as is a loader with `in_order=False`: there, another worker count would be
    another result. Raises what the sampler and the dataset raise.
    """
    return tuning_of(loader).begin(loader)


def tuning_of(loader: DataLoader[Any]) -> LiveTuning:
    """The tuning of `loader`, which begins with its first epoch, or with a state that is loaded."""
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
    """One loader's tuning while it trains, and its place in the epoch that runs."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = weakref.ref(loader)
        self._epochs_begun = 0
        self._latest: Callable[[], Any] = lambda: None
        self._lasting: LiveIterator | None = None
        self._resumed: dict[str, Any] | None = None
        self._begin_tuning(loader)

    def _begin_tuning(self, loader: DataLoader[Any]) -> None:
        own = current_config(loader)
        self._is_untouched = isinstance(loader.dataset, IterableDataset) or not own.in_order
        checks = None if self._is_untouched else check_guard(loader, type(loader.dataset).__name__, own)
        # The run has the pilot: the pilot must not have the run, or workers would be left to the collector of cycles.
        known: list[weakref.ref[LiveRun]] = []

        def why_no_workers() -> str | None:
            run = known[0]() if known else None
            return None if run is None else run.state.why_plain()

        run = self._run = LiveRun(own, Pilot(own, why_no_workers), checks=checks)
        known.append(weakref.ref(run))
        if checks is not None:
            run.guards.add(checks)
        self._lasting = None

    @property
    def config(self) -> Config:
        """The configuration that the loop runs on, or will as soon as it can."""
        return self._run.own if self._is_untouched else self._run.steering.wanted

    @property
    def is_settled(self) -> bool:
        """Whether nothing is being tried at present."""
        return self._is_untouched or self._run.steering.is_settled

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every configuration that ran, in turn, with the rate of the user's loop and what was made of it."""
        return tuple(self._run.steering.trials)

    def let_go(self) -> None:
        """Ends the workers that wait for another epoch: there won't be one."""
        kept, self._run.kept, self._lasting = self._run.kept, None, None
        self._run.steering.let_go()
        latest = self._latest()
        if kept is not None and (latest is None or latest.is_over):
            kept.close()

    # ---- epochs

    def begin(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """The next epoch's iterator. Raises what the sampler raises."""
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
        """Lets go of workers that were kept where they can't go on: they are still in use."""
        run, latest = self._run, self._latest()
        if not run.own.persistent_workers and latest is not None and not latest.is_over:
            run.kept = None

    def _torch_s(self, loader: DataLoader[Any], resumed: dict[str, Any] | None) -> Iterator[Any]:
        """Torch's own iterator, from the place on at which an epoch was left."""
        self._epochs_begun += 1
        batches = DataLoader.__iter__(loader)
        for _ in range(int(resumed["delivered"]) if resumed else 0):
            if next(batches, self) is self:
                break
        self._latest = weakref.ref(batches)
        return batches

    # ---- the place in an epoch

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on after the last batch that was delivered: tensors and plain values.

        Where the sampler has a length, it is drawn to the end of its epoch, and the state holds the indices that are
        left, 8 bytes for each sample. Where it has none, or the dataset is iterable, the state says how many batches
        came, and so many are left out of the epoch that is begun next. A generator of the loader's own is in the state,
        the process's own is not: a checkpoint has that anyway. Raises what the sampler raises, and ValueError with
        `in_order=False`, where batches that came can't be told from those that did not.
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
        """Lets the next epoch be the rest of the one that `state` was taken in. Raises ValueError for other states."""
        if state.get("version") != _VERSION:
            raise ValueError("this is no state of a live loader that this plumb can read: begin the epoch anew")
        self._epochs_begun = int(state["epochs_begun"])
        self._resumed = state


def _order(
    loader: DataLoader[Any], own: Config, is_reset: bool, resumed: dict[str, Any] | None
) -> tuple[EpochOrder, torch.Tensor]:
    """The order of an epoch that begins, or of what is left of one."""
    if resumed is not None and "remaining" in resumed:
        delivered, rest = int(resumed["delivered"]), unpacked(resumed["remaining"])
        watch = SamplerWatch(rest, loader.dataset)
        length = delivered + len(rest)
        return EpochOrder(Forecast(rest), watch, length, own.batches_in_flight, delivered), resumed["seeds"]
    order, seed_state = drawn(loader, own, is_reset)
    while resumed is not None and order.delivered < resumed["delivered"] and order.has_next:
        next(order)
        order.deliver()
    return order, seed_state
