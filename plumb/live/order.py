"""The order of one epoch's batches, drawn once: whoever reads them, and however often that changes, it stays the same.

Torch asks the sampler when an epoch begins, draws a seed for the workers, and, where there are workers, asks the
sampler again and takes as many batches of indices from it as it prefetches. An order does the same, from the same
generators and at the same moments, as the user's own configuration would. From then on it knows three places: how far
the loop is, how far loaders were given batches, and how far the sampler was drawn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from plumb.config import Config
from plumb.lengths import length_of
from plumb.runtime.epochs import draw_worker_seed
from plumb.search.measure import index_sampler


class Order:
    """The batches of indices of one epoch, and which of them were read and delivered.

    `ahead` is how many the user's own loader prefetches. An error of the sampler is kept until the loop comes to where
    it would have met it.
    """

    def __init__(self, indices: Iterator[Any], length: int | None, ahead: int = 0, delivered: int = 0) -> None:
        self.delivered = delivered
        self.length = length
        self._indices = indices
        self._ahead = ahead
        self._pending: deque[Any] = deque()
        self._given = 0
        self._has_ended = False
        self._error: Exception | None = None
        self._draw(ahead)

    # ---- the loop's side

    @property
    def has_next(self) -> bool:
        """Whether there is another batch. Raises what the sampler raises, where the user's own loader would."""
        self._draw(self._ahead + 1)
        return bool(self._pending)

    @property
    def next_indices(self) -> Any:
        """The indices of the next batch to be delivered."""
        return self._pending[0]

    @property
    def batches_left(self) -> int | None:
        """How many batches are still to be delivered, None where the sampler doesn't say."""
        return None if self.length is None else max(0, self.length - self.delivered)

    def deliver(self) -> None:
        """The loop has got the next batch, or the error in its place."""
        self._pending.popleft()
        self._given -= 1
        self.delivered += 1

    # ---- the loaders' side

    def __next__(self) -> Any:
        if self._given == len(self._pending) and not self._drawn_one():
            raise StopIteration
        self._given += 1
        return self._pending[self._given - 1]

    def take_back(self) -> None:
        """Whoever was given batches that were not delivered has lost them: they will be given once more."""
        self._given = 0

    # ---- the sampler's side

    def remaining(self) -> list[Any] | None:
        """All batches that are still to be delivered, which draws the sampler to its end; None if that may never come.

        Raises what the sampler raises.
        """
        while self.length is not None and self.delivered + len(self._pending) <= self.length and self._drawn_one():
            pass
        if self._error is not None:
            raise self._error
        return list(self._pending) if self._has_ended else None

    def _draw(self, count: int) -> None:
        while len(self._pending) < count and self._drawn_one():
            pass
        if len(self._pending) < count:
            self._raise_error()

    def _drawn_one(self) -> bool:
        if self._has_ended:
            return False
        try:
            self._pending.append(next(self._indices))
        except StopIteration:
            self._has_ended = True
        except Exception as error:
            self._has_ended, self._error = True, error
        return not self._has_ended

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            # Or else the error and this frame would keep each other, and with them the loop's iterator.
            del error


def drawn(loader: DataLoader[Any], own: Config, is_reset: bool) -> tuple[Order, torch.Tensor]:
    """An epoch's order, drawn as torch draws it, and the state of the generator that its workers' seed came from.

    `is_reset` says that workers of an earlier epoch go on: then torch draws no seed, and the state has no meaning.
    Raises what the sampler raises.
    """
    sampler = index_sampler(loader)
    indices = iter(sampler)
    generator = loader.generator if loader.generator is not None else torch.default_generator
    state = generator.get_state()
    if not is_reset:
        draw_worker_seed(generator)
        if own.num_workers:
            indices = iter(sampler)
    return Order(indices, length_of(sampler), own.batches_in_flight), state


def packed(batches: Sequence[Any]) -> dict[str, Any]:
    """Batches of indices as two tensors where all are lists of whole numbers, so that a checkpoint stays small."""
    plain = all(type(batch) is list and all(type(index) is int for index in batch) for batch in batches)
    if not plain:
        return {"batches": list(batches)}
    return {
        "indices": torch.tensor([index for batch in batches for index in batch], dtype=torch.int64),
        "sizes": torch.tensor([len(batch) for batch in batches], dtype=torch.int64),
    }


def unpacked(state: dict[str, Any]) -> list[Any]:
    """The batches that `packed` was given."""
    if "batches" in state:
        return list(state["batches"])
    parts = torch.split(state["indices"], state["sizes"].tolist())
    return [part.tolist() for part in parts]
