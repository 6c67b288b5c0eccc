"""Forecast of a sampler's indices, without calling the sampler ahead of time.

The loop may end an epoch at any batch, and between two batches it may draw from the generators that a sampler draws
from, or influence the samples to come. So a sampler is called exactly when the user's own configuration would call it.
Workers that read ahead get a forecast in the meantime: the indices of a copy. If the sampler then returns other
indices, batches read by the forecast are dropped.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from numbers import Number
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

# These draw only from their own generator, or from torch's at the first index.
_TORCHS = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)
# Iterators of which `copy.copy` makes an independent one, without running anything of the user's.
_COPYABLE: tuple[type, ...] = tuple(map(type, (iter([]), iter(()), iter(range(0)), iter(range(2**70)), reversed([]))))


class IndexForecast:
    """Iterator over a sampler, as the user's own configuration would make it, and its future indices."""

    def __init__(self, sampler: Iterable[Any]) -> None:
        self.iterator = iter(sampler)
        self._copy = copied(self.iterator)

    def first_is_drawn_next(self) -> None:
        """Prepare for the first call of the iterator."""

    def after(self, drawn: int) -> Iterator[Any] | None:
        """Return the indices after the first `drawn`, or None if they can't be foreseen."""
        return None if self._copy is None else itertools.islice(copy.copy(self._copy), drawn, None)


class _Tap:
    """A user's sampler inside a BatchSampler; stores a copy of its iterator."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self.copy: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        indices: Iterator[Any] = iter(self._sampler)
        self.copy = copied(indices)
        return indices


class _TappedBatches(BatchSampler):
    """The user's own BatchSampler with a tap around its sampler; it shares the original's attributes."""

    __slots__ = ("_tap",)

    def __init__(self, users: BatchSampler, tap: _Tap) -> None:
        self.__dict__ = users.__dict__
        self._tap = tap

    @property
    def sampler(self) -> Any:  # type: ignore[override]
        return self._tap


class _ForecastOfBatches(IndexForecast):
    """Batches of a user's sampler, if its iterator can be copied."""

    def __init__(self, batches: BatchSampler) -> None:
        self._batches = batches
        self._tap = _Tap(batches.sampler)
        self.iterator = iter(_TappedBatches(batches, self._tap))

    def after(self, drawn: int) -> Iterator[Any] | None:
        """Return the batches after the first `drawn`, or None if they can't be foreseen."""
        if self._tap.copy is None:
            return None
        indices: Any = copy.copy(self._tap.copy)
        rest = BatchSampler(indices, self._batches.batch_size, self._batches.drop_last)
        return itertools.islice(rest, drawn, None)


class _ForecastOfTorchs(IndexForecast):
    """Forecast of torch's own samplers: a copy with copies of the generators returns the same indices."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self.iterator = iter(sampler)
        self._state = torch.empty(0)
        self._copy: Any = None

    def first_is_drawn_next(self) -> None:
        """Copy the sampler with its generator, and store torch's state."""
        self._copy, self._state = _cloned(self._sampler), torch.get_rng_state()

    def after(self, drawn: int) -> Iterator[Any] | None:
        """Return the indices after the first `drawn`."""
        state = torch.get_rng_state()
        torch.set_rng_state(self._state)
        try:
            indices = iter(self._copy)
            first = list(itertools.islice(indices, 1))
        finally:
            torch.set_rng_state(state)
        return itertools.islice(itertools.chain(first, indices), drawn, None)


def forecast_of(sampler: Iterable[Any]) -> IndexForecast:
    """Call `sampler` for an epoch, as the user's own configuration would now. Raises the sampler's errors."""
    inner = sampler.sampler if type(sampler) is BatchSampler else sampler
    if type(inner) in _TORCHS:
        return _ForecastOfTorchs(sampler)
    return _ForecastOfBatches(sampler) if type(sampler) is BatchSampler else IndexForecast(sampler)


def copied(indices: Iterator[Any]) -> Iterator[Any] | None:
    """Return an independent copy of an iterator over a list or the like, None for any other iterator."""
    return copy.copy(indices) if type(indices) in _COPYABLE else None


def is_same(indices: Any, others: Any) -> bool:
    """Return whether two batches of indices, or two indices, are certainly equal."""
    if indices is others:
        return True
    if type(indices) is not type(others):
        return False
    if isinstance(indices, (list, tuple)):
        if {*map(type, indices)} == {int}:
            return bool(indices == others)
        return len(indices) == len(others) and all(map(is_same, indices, others))
    if isinstance(indices, torch.Tensor):
        return torch.equal(indices, others)
    return isinstance(indices, (Number, str, bytes)) and bool(indices == others)


def _cloned(sampler: Any) -> Any:
    clone = copy.copy(sampler)
    if type(sampler) is BatchSampler:
        clone.sampler = _cloned(sampler.sampler)
    generator = vars(clone).get("generator")
    if isinstance(generator, torch.Generator):
        clone.generator = torch.Generator(generator.device)
        clone.generator.set_state(generator.get_state())
    return clone
