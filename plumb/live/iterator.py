"""The iterator that the user's loop gets: one epoch in the order that was drawn, whichever loader reads its batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch.utils.data import DataLoader

from plumb.config import Config
from plumb.errors import one_line
from plumb.live.meter import Delivery, now
from plumb.live.order import Order
from plumb.live.pilot import Pilot
from plumb.live.safety import MainReads
from plumb.live.stretch import Stretch
from plumb.profile.device import synchronize
from plumb.runtime.epochs import draw_worker_seed, state_of
from plumb.search.ledger import while_running
from plumb.search.measure import index_sampler

# A loader that takes over with fewer batches left than this, beyond those that both prefetch, isn't worth its start.
_WORTH_A_SWITCH = 8
# The workers of later stretches have other seeds than those of the first, by this.
_SEED_STEP = 1_000_003


@dataclass
class Shared:
    """What the epochs of one loader have in common. Only the latest epoch, by its `turn`, is measured and tuned.

    `kept` is the stretch at work if its workers are to outlive the epoch.
    """

    own: Config
    pilot: Pilot
    reads: MainReads
    kept: Stretch | None = None
    turn: int = 0


class LiveIterator:
    """One epoch. Samples, their order, and the user's exceptions are those of the user's own loader.

    Whatever another configuration raises, or breaks on, the same batch is read once more by the user's own
    configuration: its answer is the one that counts.
    """

    def __init__(self, template: DataLoader[Any], shared: Shared, order: Order, seed_state: torch.Tensor) -> None:
        self._shared = shared
        self.renew(template, order, seed_state)

    def renew(self, template: DataLoader[Any], order: Order, seed_state: torch.Tensor) -> None:
        """Begins another epoch, as torch's iterator does whose workers persist."""
        self.order = order
        self.seed_state = seed_state
        self.is_over = False
        self._template = template
        self._stretches: deque[Stretch] = deque()
        self._next: Stretch | None = None
        self._made = 0
        self._suspect: tuple[Config, str] | None = None
        self._returned: tuple[float, float, float] | None = None
        self._dataset_state = state_of(template.dataset)
        self._shared.turn += 1
        self._turn = self._shared.turn
        self._start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __len__(self) -> int:
        return len(index_sampler(self._template))  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        # Scripts reach into torch's iterator.
        if name.startswith("__") or not self.__dict__.get("_stretches"):
            raise AttributeError(name)
        return getattr(self._stretches[0].batches, name)

    def __next__(self) -> Any:
        if self.is_over:
            raise StopIteration
        if self._turn != self._shared.turn:
            return self._batch()[0] if self.order.has_next else self._end()
        pilot, asked, returned = self._shared.pilot, now(), self._returned
        ends_span = pilot.ends_span(asked[0], self._stretches[-1].config.num_workers)
        if ends_span and not pilot.is_settled:
            synchronize()
            asked = now()
        if not self.order.has_next:
            return self._end()
        self._switch()
        batch, indices, stretch = self._batch()
        got = self._returned = now()
        delivery = Delivery(
            config=stretch.config,
            samples=len(indices) if hasattr(indices, "__len__") else 1,
            at=got[0],
            wait_seconds=got[0] - asked[0],
            wait_cpu_seconds=got[1] - asked[1],
            step_seconds=asked[0] - returned[0] if returned else 0.0,
            step_cpu_seconds=asked[2] - returned[2] if returned else 0.0,
            is_steady=stretch is self._stretches[-1] and self._next is None and stretch.is_steady,
            is_filled=stretch.is_filled,
            ends_span=ends_span,
            start_seconds=stretch.start_seconds,
            pids=stretch.pids,
        )
        pilot.note(delivery, batch, indices)
        return batch

    def _end(self) -> NoReturn:
        """The epoch is over: ends the workers, but for those that are kept."""
        self.is_over = True
        if self._next is not None:
            self._next.close()
            self._next = None
        while self._stretches:
            stretch = self._stretches.popleft()
            if stretch is not self._shared.kept:
                stretch.close()
        raise StopIteration

    # ---- one batch

    def _batch(self) -> tuple[Any, Any, Stretch]:
        """The next batch, its indices, and where it came from."""
        while True:
            while not self._stretches[0].is_at_work:
                self._stretches.popleft().close()
            stretch, indices, reason = self._stretches[0], self.order.next_indices, None
            try:
                batch = self._read(stretch)
            except Exception as error:
                if while_running(stretch.config) == while_running(self._shared.own):
                    # It is the user's own; the configuration that met it first was not to blame.
                    self._suspect = None
                    self.order.deliver()
                    raise
                reason = one_line(error)
            # Not inside the handler: workers that are forked there would report its error along with their own.
            if reason is not None:
                self._fall_back(stretch.config, reason)
                continue
            self.order.deliver()
            if self._suspect is not None:
                self._shared.pilot.failed(*self._suspect)
                self._suspect = None
            return batch, indices, stretch

    def _read(self, stretch: Stretch) -> Any:
        if stretch.config.num_workers:
            return next(stretch)
        reads, dataset = self._shared.reads, self._template.dataset
        with reads.looking(dataset):
            batch = next(stretch)
        if reads.is_looking:
            self._dataset_state = state_of(dataset)
        return batch

    def _fall_back(self, config: Config, reason: str) -> None:
        """Everything that was not delivered yet is read once more, by the user's own configuration."""
        self._suspect = self._suspect or (config, reason)
        if self._next is not None:
            self._next.close()
            self._next = None
        while self._stretches:
            self._stretches.popleft().close()
        self.order.take_back()
        self._begin(self._stretch(self._shared.own))

    # ---- from one loader to the next

    def _start(self) -> None:
        """Begins with what is wanted, by the workers of an earlier epoch if they were kept."""
        shared, wanted = self._shared, self._shared.pilot.wanted
        kept, shared.kept = shared.kept, None
        if kept is not None:
            if while_running(kept.config) == while_running(wanted) and not kept.has_dead_workers:
                kept.config = wanted
                self._made = 1
                self._begin(kept)
                return
            kept.close()
        if while_running(wanted) != while_running(shared.own):
            try:
                self._begin(self._stretch(wanted))
                return
            except Exception as error:
                shared.pilot.failed(wanted, one_line(error))
                self._stretches.clear()
                self.order.take_back()
        self._begin(self._stretch(shared.own))

    def _begin(self, stretch: Stretch) -> None:
        self._stretches.append(stretch)
        stretch.open(self.order)
        self._keep(stretch)

    def _keep(self, stretch: Stretch) -> None:
        if self._turn == self._shared.turn:
            self._shared.kept = stretch if stretch.config.persistent_workers else None

    def _switch(self) -> None:
        """Does the next step towards the configuration that is wanted."""
        if self._next is not None:
            self._take_over(self._next)
        elif len(self._stretches) == 1 and self._is_due():
            self._next = self._stretch(self._shared.pilot.wanted)
            self._next.prepare()

    def _is_due(self) -> bool:
        wanted, current = self._shared.pilot.wanted, self._stretches[0]
        if while_running(wanted) == while_running(current.config):
            if current.config != wanted:
                current.config = wanted
                self._keep(current)
            return False
        left = self.order.batches_left
        in_flight = wanted.batches_in_flight + current.config.batches_in_flight
        if self._suspect is not None or (left is not None and left < in_flight + _WORTH_A_SWITCH):
            return False
        return self._is_unchanged()

    def _is_unchanged(self) -> bool:
        """Whether the dataset is what the workers of this epoch were given: new ones would be given it as it is now."""
        return bool(state_of(self._template.dataset) == self._dataset_state)

    def _take_over(self, stretch: Stretch) -> None:
        failure = stretch.failure
        if failure is not None:
            self._next = None
            stretch.close()
            self._shared.pilot.failed(stretch.config, failure)
        elif stretch.is_ready:
            self._next = None
            self._stretches[-1].give_over()
            try:
                self._begin(stretch)
            except Exception as error:
                failure = one_line(error)
            if failure is not None:
                self._fall_back(stretch.config, failure)

    def _stretch(self, config: Config) -> Stretch:
        """A stretch on `config`; the epoch's first has the seed for its workers that torch would have drawn."""
        seeds = torch.Generator()
        seeds.set_state(self.seed_state)
        if self._made:
            seeds.manual_seed((draw_worker_seed(seeds) + self._made * _SEED_STEP) % 2**63)
        self._made += 1
        is_users = while_running(config) == while_running(self._shared.own)
        dataset = self._template.dataset
        stores = (stretch.filled_store(config, dataset) for stretch in self._stretches)
        stored = next((store for store in stores if store is not None), None)
        return Stretch(self._template, config, self.order, seeds, is_users, self._shared.pilot.rewrites, stored)
