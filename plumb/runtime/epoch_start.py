"""Start of an epoch with the plan's configuration, but with the order of samples of the user's own.

The order depends on details of torch's iterators. A new one calls the sampler for an epoch, draws a seed for the
workers from the loader's generator, and, if it has workers, calls the sampler again and drops the first result. A
persistent one only calls the sampler. A sampler that shuffles when called, or draws from the same generator, then
returns another order. Here the sampler is called, and the generator drawn from, as the user's own configuration would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from plumb.core.config import Config


class Epochs:
    """Starter of the epochs of one loader that runs on the plan's configuration instead of the user's.

    If the user's workers persist, the plan's must persist too, or there must be none.
    """

    def __init__(self, loader: DataLoader[Any], users: Config) -> None:
        self._order = _UsersOrder(loader.generator)
        self._users = users
        self._begun = 0

    def start(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Return the next epoch's iterator, which `start` makes or resets."""
        users_are_new = self._begun == 0 or not self._users.persistent_workers
        resets = loader._iterator is not None
        self._begun += 1
        order, users_have_workers = self._order, self._users.num_workers > 0
        order.ask = order.plainly
        if resets and users_are_new:
            order.ask = order.as_if_new_with_workers if users_have_workers else order.as_if_new
        elif loader.num_workers and not resets and not users_have_workers:
            order.ask = order.once_for_two
        elif not loader.num_workers and users_have_workers:
            if not users_are_new:
                return self._without_the_seed(loader, start)
            order.ask = order.once_more_later
        return self._started(loader, start)

    def _started(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        # Subclasses replace the sampler after torch's constructor, so it is looked up here.
        name = "sampler" if loader.batch_sampler is None else "batch_sampler"
        theirs = self._order.sampler = getattr(loader, name)
        # Torch forbids setting these on an existing loader; no other code sees them during one call.
        object.__setattr__(loader, name, self._order)
        try:
            return start()
        finally:
            object.__setattr__(loader, name, theirs)

    def _without_the_seed(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Start an epoch without workers, and undo torch's draw of their seed."""
        self._order.ask = self._order.and_note_the_state
        batches = self._started(loader, start)
        self._order.generator.set_state(self._order.state)
        return batches


class _UsersOrder:
    """The user's sampler as called by torch's iterator; `ask` is the present way of calling it."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator or torch.default_generator
        self.state = self.generator.get_state()
        self.sampler: Iterable[Any] = ()
        self.ask: Callable[[], Iterator[Any]] = self.plainly
        self._asked: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self.ask()

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def plainly(self) -> Iterator[Any]:
        return iter(self.sampler)

    def once_for_two(self) -> Iterator[Any]:
        """Call the sampler once although torch calls twice, as the user's iterator without workers would."""
        asked, self._asked = self._asked, None
        if asked is None:
            asked = self._asked = iter(self.sampler)
        return asked

    def once_more_later(self) -> Iterator[Any]:
        """Call the sampler again after torch's only call, as the user's iterator with workers would after the seed."""
        iter(self.sampler)

        def again() -> Iterator[Any]:
            yield from self.sampler

        return again()

    def as_if_new(self) -> Iterator[Any]:
        """Call the sampler and draw a seed for a reset iterator, as the user's new one without workers would."""
        asked = iter(self.sampler)
        draw_worker_seed(self.generator)
        return asked

    def as_if_new_with_workers(self) -> Iterator[Any]:
        """Call the sampler twice and draw a seed for a reset iterator, as the user's new one with workers would."""
        iter(self.sampler)
        draw_worker_seed(self.generator)
        return iter(self.sampler)

    def and_note_the_state(self) -> Iterator[Any]:
        asked = iter(self.sampler)
        self.state = self.generator.get_state()
        return asked


def draw_worker_seed(generator: torch.Generator) -> int:
    """Draw the seed of an epoch's workers as torch's iterator does in its constructor."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())
