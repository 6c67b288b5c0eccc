"""Order of one epoch's batches, drawn once, and independent of which loaders read them.

Torch calls the sampler when an epoch begins, draws a seed for the workers, and, if there are workers, calls the sampler
again and takes as many batches of indices from it as it prefetches. An order does the same, from the same generators
and at the same moments, as the user's own configuration would. Afterwards it tracks three positions: of the loop, of
the loaders, and of the sampler. A loader that reads further ahead than the user's own gets forecast indices (see
`index_forecast.py`), or those that a user's sampler returns ahead of time, if `guards/sampler_guard.py` has found
nothing against that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.core.sized import length_of
from plumb.runtime.epoch.index_forecast import IndexForecast, forecast_of, is_same
from plumb.runtime.epoch_start import draw_worker_seed
from plumb.runtime.guards.sampler_guard import SamplerWatch
from plumb.runtime.loader import index_sampler


class EpochOrder:
    """Batches of indices of one epoch, and which of them were read and delivered.

    `ahead` is the number of batches that the user's own loader prefetches. A sampler's error is kept until the loop
    reaches the place where it would have occurred. `watch` observes a sampler without a forecast. `why_no_foresight` is
    the reason why loaders get no more than the user's own would prefetch, empty if there is none; `is_off` means that
    more was given already, and may be wrong.
    """

    def __init__(
        self, forecast: IndexForecast, watch: SamplerWatch, length: int | None, ahead: int = 0, delivered: int = 0
    ) -> None:
        self.delivered = delivered
        self.length = length
        self.why_no_foresight = ""
        self.is_off = False
        self._forecast = forecast
        self._ahead = ahead
        self._watch = watch
        self._is_watching = False
        self._drawn = 0
        self._asked_ahead = 0
        self._was_asked_ahead = False
        self._pending: deque[Any] = deque()
        self._foreseen: Iterator[Any] | None = None
        self._expected: deque[Any] = deque()
        self._given = 0
        self._has_ended = False
        self._error: Exception | None = None
        self._draw(ahead)

    # ---- the loop's side

    @property
    def has_next(self) -> bool:
        """True if there is another batch. Raises the sampler's errors where the user's own loader would."""
        due = self._ahead + 1
        while self._asked_ahead and len(self._pending) - self._asked_ahead < due:
            self._asked_ahead -= 1
            self._watch.is_due()
            self._lose_foresight(self._watch.why_not)
        self._draw(due)
        return bool(self._pending)

    @property
    def next_indices(self) -> Any:
        """Indices of the next batch to be delivered."""
        return self._pending[0]

    @property
    def batches_left(self) -> int | None:
        """Number of batches still to be delivered, None if the sampler has no length."""
        return None if self.length is None else max(0, self.length - self.delivered)

    def deliver(self) -> None:
        """Record that the loop got the next batch, or the error in its place."""
        self._pending.popleft()
        self._given = max(0, self._given - 1)
        self.delivered += 1

    def skip(self) -> Any:
        """Draw a batch from the sampler that is not delivered, as scripts do to resume an epoch on torch's iterator.

        Raises StopIteration at the end, and the sampler's errors.
        """
        if self._given > len(self._pending):
            self._lose_foresight("the script draws from the sampler while an epoch runs")
        count = len(self._pending)
        self._draw(count + 1)
        if len(self._pending) == count:
            raise StopIteration
        self._given = min(self._given, count)
        return self._pending.pop()

    # ---- the loaders' side

    def __next__(self) -> Any:
        if self._given == len(self._pending) + len(self._expected) and not self._found_one_more():
            raise StopIteration
        self._given += 1
        place = self._given - 1 - len(self._pending)
        return self._pending[self._given - 1] if place < 0 else self._expected[place]

    @property
    def given_number(self) -> int:
        """Number, within the epoch, of the batch that was given last."""
        return self.delivered + self._given - 1

    def take_back(self) -> None:
        """Give all undelivered batches again, because the loaders that had them are gone."""
        self._given = 0

    def _found_one_more(self) -> bool:
        """Look one batch further ahead than the user's own configuration would; return whether there is one."""
        if self._has_ended or not self._drawn or self.why_no_foresight:
            return False
        if self._foreseen is None:
            self._foreseen = self._forecast.after(self._drawn)
        if self._foreseen is not None:
            self._expected.extend([indices for indices in [next(self._foreseen, self)] if indices is not self])
            return len(self._pending) + len(self._expected) > self._given
        return self._asked_one_ahead()

    def _asked_one_ahead(self) -> bool:
        """Call the sampler itself ahead of time, except for the last batch, because its end must come in time."""
        watch, self._is_watching = self._watch, True
        if not watch.may_be_asked_ahead:
            self._lose_foresight(watch.why_not)
            return False
        if self.length is None:
            # If it restarts after its last batch, it draws an order that must not be drawn early.
            self._lose_foresight("its sampler doesn't say how many batches it gives")
            return False
        if self._drawn >= self.length - 1:
            return False
        with watch.asked_ahead():
            found = self._drawn_one()
        self._asked_ahead += found
        self._was_asked_ahead = True
        self._lose_foresight(watch.why_not)
        return found

    def _lose_foresight(self, why: str) -> None:
        if why and not self.why_no_foresight:
            self.why_no_foresight, self._is_watching = why, False
            self.is_off = self._was_asked_ahead or self._given > len(self._pending)

    # ---- the sampler's side

    def remaining(self) -> list[Any] | None:
        """Return all undelivered batches, which draws the sampler to its end; None if that may never come.

        Raises the sampler's errors.
        """
        while self.length is not None and self.delivered + len(self._pending) <= self.length and self._drawn_one():
            pass
        if self._error is not None:
            raise self._error
        return list(self._pending) if self._has_ended else None

    def _draw(self, count: int) -> None:
        while len(self._pending) < count and self._drawn_in_time():
            pass
        if len(self._pending) < count:
            self._raise_error()

    def _drawn_in_time(self) -> bool:
        if not self._is_watching or self._has_ended:
            return self._drawn_one()
        with self._watch.asked_in_time():
            found = self._drawn_one()
        if found:
            # Changes that the sampler makes at its end came in time, so it is not called ahead any more.
            self._lose_foresight(self._watch.why_not)
        return found

    def _drawn_one(self) -> bool:
        if self._has_ended:
            return False
        if not self._drawn:
            self._forecast.first_is_drawn_next()
        try:
            self._pending.append(next(self._forecast.iterator))
            self._drawn += 1
        except StopIteration:
            self._has_ended = True
        except Exception as error:
            # The frame of this method leads to the iterator that asks. That would be left to the cycle collector,
            # close its queues twice: finalizers come in any order.
            begun = error.__traceback__
            self._error = error.with_traceback(begun.tb_next if begun else None)
            self._has_ended = True
        if self._foreseen is not None:
            self._compare()
        return not self._has_ended

    def _compare(self) -> None:
        """Replace the forecast of a batch by the sampler's own indices if they are equal."""
        if self._expected and not self._has_ended and is_same(self._expected[0], self._pending[-1]):
            self._expected.popleft()
        elif self._expected:
            if self._error is None:
                self._lose_foresight("its sampler gives other samples than were to be foreseen")
                self.is_off = True
            self._expected.clear()
            self._given = min(self._given, len(self._pending) - (not self._has_ended))
        elif not self._has_ended:
            # A forecast that no loader got yet need not be equal.
            self._foreseen = None

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            # Otherwise the error and this frame would refer to each other, and keep the loop's iterator alive.
            del error


def draw_order(loader: DataLoader[Any], own: Config, is_reset: bool) -> tuple[EpochOrder, torch.Tensor]:
    """Draw an epoch's order as torch does; also return the generator's state before the workers' seed.

    Raises the sampler's errors.

    Args:
        loader: The loader.
        own: The user's own configuration.
        is_reset: Whether workers of an earlier epoch continue: then torch draws no seed, and the state has no meaning.
    """
    sampler = index_sampler(loader)
    generator = loader.generator if loader.generator is not None else torch.default_generator
    forecast = forecast_of(sampler)
    state = generator.get_state()
    if not is_reset:
        draw_worker_seed(generator)
        if own.num_workers:
            forecast = forecast_of(sampler)
    watch = SamplerWatch(sampler, loader.dataset)
    return EpochOrder(forecast, watch, length_of(sampler), own.batches_in_flight), state


def packed(batches: Sequence[Any]) -> dict[str, Any]:
    """Return batches of indices as two tensors if all are lists of integers, so that a checkpoint stays small."""
    plain = all(type(batch) is list and all(type(index) is int for index in batch) for batch in batches)
    if not plain:
        return {"batches": list(batches)}
    return {
        "indices": torch.tensor([index for batch in batches for index in batch], dtype=torch.int64),
        "sizes": torch.tensor([len(batch) for batch in batches], dtype=torch.int64),
    }


def unpacked(state: dict[str, Any]) -> list[Any]:
    """Return the batches that were packed."""
    if "batches" in state:
        return list(state["batches"])
    parts = torch.split(state["indices"], state["sizes"].tolist())
    return [part.tolist() for part in parts]
