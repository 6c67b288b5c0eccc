"""Segments: consecutive batches of an epoch that one loader reads, on one configuration.

A loader that takes over from another first starts its workers without giving them indices. Only once they are ready
does it get the next batches, and the old one no more: the old one is emptied, batch by batch, while the new workers
already read the following ones.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import math
import multiprocessing
import operator
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.utils.data import DataLoader, _utils

from plumb.core.config import Config, Rewrites
from plumb.core.errors import one_line
from plumb.host.process_control import keep_sockets_together
from plumb.instrument.worker_init import users_init
from plumb.runtime.epoch.epoch_order import EpochOrder
from plumb.runtime.guards.guard import Guards
from plumb.runtime.guards.worker_watch import WorkerWatchInit
from plumb.runtime.iterator_setup import IteratorSetup
from plumb.runtime.loader import NO_REWRITES, rebuild
from plumb.runtime.store.dataset_store import DatasetStore

# Workers that are not ready by then are given up; the loop goes on without them.
_STARTED_AT_LAST_SECONDS = 120.0
# Workers that are not forked import everything that the script does before their first batch.
_IMPORT_SECONDS = 60.0
# Connections to a dying worker are reset up to this long before its parent notices its death.
_DEATH_SECONDS, _POLL_SECONDS = 1.0, 0.02
_DIED = "a worker exited unexpectedly"


class OrderSource:
    """Part of the order that a segment's loader reads: nothing before it is opened, and nothing after it is closed.

    `guards` may wrap the indices.
    """

    def __init__(self, order: EpochOrder, guards: Guards | None) -> None:
        self.order = order
        self.is_open = False
        self.given = 0
        self._guards = guards
        self._reserved: deque[Any] = deque()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._reserved:
            return self._reserved.popleft()
        if not self.is_open:
            raise StopIteration
        return self._one_more()

    def begin(self, order: EpochOrder) -> None:
        """Provide the batches of `order` from now on."""
        self.order, self.is_open, self.given = order, True, 0
        self._reserved.clear()

    def close(self, reserve: int) -> None:
        """Provide nothing more, except `reserve` batches that are taken now."""
        self.is_open = False
        with contextlib.suppress(StopIteration):
            self._reserved.extend([self._one_more() for _ in range(reserve)])

    def _one_more(self) -> Any:
        indices = next(self.order)
        self.given += 1
        return indices if self._guards is None else self._guards.indices(self.order.given_number, indices)


@dataclass(frozen=True)
class Announcing:
    """`worker_init_fn` that calls the user's, and then reports that the worker is ready."""

    then: Callable[[int], None] | None
    started: Any

    def __call__(self, worker_id: int) -> None:
        if self.then is not None:
            self.then(worker_id)
        with self.started.get_lock():
            self.started.value += 1


@dataclass(frozen=True)
class SegmentOptions:
    """Reading of a segment: on `config`, with the `rewrites` that it names.

    `is_users`: it is the user's own configuration, which needs neither rewrites nor `guards`. `stored` is a store that
    was filled already; `running` outlives the segment, with its store. `is_checked`: guards may mark batches to be made
    a second time. Workers that deliver nothing for `patience_seconds` are given up, unless they are the user's own.
    `may_last`: they may be kept for the next epoch, whatever `config` says.
    """

    config: Config
    is_users: bool = True
    rewrites: Rewrites = NO_REWRITES
    stored: DatasetStore | None = None
    running: IteratorSetup | None = None
    is_checked: bool = False
    guards: Guards | None = None
    patience_seconds: float = math.inf
    may_last: bool = False


class LoaderSegment:
    """A loader that reads part of an epoch. `template` is a loader with the same parts, `options` say how to read.

    Workers outlive the epoch until `close`, whatever the configuration says, because the owner of the segment decides.
    `seeds` is the source of the workers' seed. `start_seconds` is the time that the workers took to start; `is_filled`:
    its store, if any, was complete before this epoch.
    """

    def __init__(
        self, template: DataLoader[Any], options: SegmentOptions, order: EpochOrder, seeds: torch.Generator
    ) -> None:
        self.config = config = options.config
        self.is_users = options.is_users
        self.delivered = 0
        self.is_filled = config.cache is None or options.stored is not None
        self._sees_whole_epoch = False
        self._error: str | None = None
        self._source = OrderSource(order, options.guards)
        self._context = template.multiprocessing_context or multiprocessing
        self._parts = _parts_of(template)
        lasting = dataclasses.replace(config, persistent_workers=config.num_workers > 0)
        self._loader = rebuild(
            template,
            lasting,
            self._source,
            rewrites=options.rewrites,
            stored=options.stored,
            running=options.running,
            is_checked=options.is_checked,
        )
        self._loader.generator = seeds
        if options.is_users:
            # The user's own workers stay as the script has them, also in the tracebacks of their errors.
            self._loader.worker_init_fn = users_init(self._loader.worker_init_fn)
        if config.persistent_workers or options.may_last:
            keep_sockets_together()
        if config.num_workers and not options.is_users:
            _with_workers[self] = os.getpid()
            users_timeout, self._loader.timeout = self._loader.timeout or math.inf, 0
            start_method = config.start_method or self._context.get_start_method()
            patience = options.patience_seconds + (0.0 if start_method == "fork" else _IMPORT_SECONDS)
            self._loader.patience_seconds = min(patience, users_timeout)
            if (template.num_workers, template.persistent_workers) != (config.num_workers, config.persistent_workers):
                self._loader.worker_init_fn = WorkerWatchInit(
                    self._loader.worker_init_fn, template.collate_fn, template.num_workers > 0
                )
        self.batches: Iterator[Any] | None = None
        self._started: Any = None
        self._give_up_at = math.inf
        self._begun_at = 0.0
        self.start_seconds = 0.0

    # ---- its beginning

    def prepare(self) -> None:
        """Start the workers, without anything to read. Errors appear in `failure`.

        Workers that are not forked take seconds to start, so a thread starts them.
        """
        self._begun_at = time.perf_counter()
        self._give_up_at = self._begun_at + _STARTED_AT_LAST_SECONDS
        if not self.config.num_workers:
            return
        try:
            self._started = self._context.Value("i", 0)
        except OSError as error:
            self._error = one_line(error)
            return
        self._loader.worker_init_fn = Announcing(self._loader.worker_init_fn, self._started)
        if self._context.get_start_method() == "fork":
            self._start_idle()
        else:
            threading.Thread(target=self._start_idle, name="plumb-live", daemon=True).start()

    @property
    def is_ready(self) -> bool:
        """True if all workers wait for something to read."""
        if not self.config.num_workers:
            return True
        return self.batches is not None and self._started.value >= self.config.num_workers

    @property
    def failure(self) -> str | None:
        """Reason why the workers will never be ready; None as long as they may be."""
        if self._error is not None:
            return self._error
        if self.batches is not None and self.has_dead_workers:
            return "a worker ended before it was up"
        return "its workers did not start in time" if time.perf_counter() > self._give_up_at else None

    def open(self, order: EpochOrder) -> None:
        """Begin to read, prepared or not. Raises the errors of the sampler or of the workers' start."""
        is_new, begun = not self.workers or self._begun_at > 0, self._begun_at or time.perf_counter()
        self._source.begin(order)
        self.is_filled = self.is_filled or self._sees_whole_epoch
        self._sees_whole_epoch = not order.delivered
        self.delivered = 0
        self.batches = self._iterated()
        if is_new:
            self.start_seconds = time.perf_counter() - begun
        self._begun_at = 0.0

    # ---- its batches

    @property
    def is_at_work(self) -> bool:
        """True if there are batches left to deliver, or to read."""
        return self._source.is_open or self.delivered < self._source.given

    @property
    def is_steady(self) -> bool:
        """True if more batches were delivered than may have been prefetched at the start."""
        return self.delivered > max(self.config.batches_in_flight, 1)

    def may_go_on(self, template: DataLoader[Any]) -> bool:
        """Return whether these workers may read another epoch of `template`: all live, and have its present parts."""
        parts = _parts_of(template)
        is_same = len(parts) == len(self._parts) and all(map(operator.is_, parts, self._parts))
        return is_same and not self.has_dead_workers

    def filled_store(self, config: Config, dataset: Any) -> DatasetStore | None:
        """Return the store if it has the values of this dataset, and `config` would have an equal one; else None."""
        running = self._loader.running
        if not self.is_filled or config.cache is None or config.cache != self.config.cache or running is None:
            return None
        return None if running.is_stale(dataset) else running.stored

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers."""
        return tuple(worker.pid for worker in self.workers if worker.pid is not None)

    @property
    def has_dead_workers(self) -> bool:
        """True if a worker has ended on its own."""
        return any(not worker.is_alive() for worker in self.workers)

    def failed(self, error: Exception) -> str:
        """Return the reason for an error, in one line; a worker's death causes errors of many kinds."""
        until = time.monotonic() + (_DEATH_SECONDS if isinstance(error, (OSError, EOFError)) else 0.0)
        while self.workers and not self.has_dead_workers and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        return _DIED if self.has_dead_workers else one_line(error)

    def __next__(self) -> Any:
        assert self.batches is not None
        if not self.is_users:
            if self.has_dead_workers:
                # Torch would notice too, but only after waiting seconds for their batch.
                raise RuntimeError(_DIED)
            top_up = getattr(self._loader._iterator, "top_up", None)
            if top_up is not None:
                top_up()
        self.delivered += 1
        return next(self.batches)

    # ---- its end

    def give_over(self) -> None:
        """Read nothing more. Without workers one batch is left, made while the next segment makes its first ones."""
        self._source.close(reserve=0 if self.config.num_workers else 1)

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        self._source.is_open = False
        shut_down = getattr(self._loader._iterator, "_shutdown_workers", None)
        self.batches = None
        if shut_down is not None:
            shut_down()

    @property
    def workers(self) -> list[Any]:
        """Processes of the workers, as torch's iterator has them."""
        return getattr(self._loader._iterator, "_workers", [])

    def _start_idle(self) -> None:
        try:
            self.batches = self._iterated()
        except Exception as error:
            self._error = one_line(error)

    def _iterated(self) -> Iterator[Any]:
        """Return torch's iterator, new or reset."""
        batches = iter(self._loader)
        iterator = self._loader._iterator
        if not self.is_users and getattr(iterator, "_worker_pids_set", False):
            # When a worker dies, torch's signal handler raises in the middle of the user's step. Here another
            # configuration can continue, and the user's step must not be affected.
            _utils.signal_handling._remove_worker_pids(id(iterator))  # type: ignore[attr-defined]
            vars(iterator)["_worker_pids_set"] = False
        return batches


def _parts_of(loader: DataLoader[Any]) -> tuple[Any, ...]:
    """Return the parts of a loader that its workers get at their start, bound methods as object and function."""
    parts = (loader.collate_fn, users_init(loader.worker_init_fn))
    inner = [(getattr(part, "__self__", part), getattr(part, "__func__", part)) for part in parts]
    return (loader.dataset, *inner[0], *inner[1])


# Segments that a script may hold to its end, with the process that has started their workers.
_with_workers: WeakKeyDictionary[LoaderSegment, int] = WeakKeyDictionary()


def _close_at_exit() -> None:
    """End the workers of segments that a script holds to its end.

    Multiprocessing would kill them, and each would leave the folder of its sockets behind.
    """
    for segment, owner in list(_with_workers.items()):
        if owner == os.getpid():
            with contextlib.suppress(Exception):
                segment.close()


# Handlers run in reverse order: this one comes before multiprocessing ends its daemons, and before torch's own handler,
# after which torch no longer asks workers to end. A finalizer of multiprocessing would therefore be too late.
atexit.register(_close_at_exit)
