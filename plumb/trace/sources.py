"""The samples of a dataset to look at, loaded plainly or through a recorder: by index, by groups, or as a stream."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from plumb.lengths import length_of
from plumb.trace.recorder import SAMPLE, Recorder

Load = Callable[[], list[Any]]


class TraceError(ValueError):
    """A dataset that can't be traced. The message is one line and says what to do."""


class TraceTimeError(TraceError):
    """A trace that was not done when its time was up."""


class Source(Protocol):
    """Units of `unit_samples` samples each, that can be loaded again and again."""

    @property
    def unit_samples(self) -> int: ...

    @property
    def samples(self) -> int:
        """How many samples one pass can have."""
        ...

    @property
    def interleaves(self) -> bool:
        """Whether a plain and a recorded pass may take turns, unit by unit."""
        ...

    def loads(self, recorder: Recorder | None, units: int, reverse: bool = False) -> list[Load]:
        """One pass over the first `units` units: a function for each, to be called in order."""
        ...


@dataclass(frozen=True)
class Indexed:
    """A map-style dataset, read index by index, or by groups where it has a `__getitems__` of its own."""

    dataset: Any
    groups: tuple[tuple[Any, ...], ...]
    grouped: bool

    interleaves = True

    @property
    def unit_samples(self) -> int:
        return len(self.groups[0])

    @property
    def samples(self) -> int:
        return sum(map(len, self.groups))

    def loads(self, recorder: Recorder | None, units: int, reverse: bool = False) -> list[Load]:
        order = self.groups[:units]
        return [self._load(recorder, group) for group in (reversed(order) if reverse else order)]

    def _load(self, recorder: Recorder | None, group: tuple[Any, ...]) -> Load:
        function, argument = operator.getitem, group[0]
        arguments: tuple[Any, ...] = (self.dataset, argument)
        if self.grouped:
            function, arguments = self.dataset.__getitems__, (list(group),)

        def load() -> list[Any]:
            loaded = function(*arguments) if recorder is None else recorder.enter(SAMPLE, function, *arguments)
            return list(loaded) if self.grouped else [loaded]

        return load


@dataclass(frozen=True)
class Streamed:
    """An iterable dataset: each pass is a new iteration. Two never run at once, for they may share a file."""

    dataset: Any
    samples: int

    interleaves = False
    unit_samples = 1

    def loads(self, recorder: Recorder | None, units: int, reverse: bool = False) -> list[Load]:
        iterators: list[Iterator[Any]] = []

        def load() -> list[Any]:
            if not iterators:
                iterators.append(iter(self.dataset) if recorder is None else recorder.stream(self.dataset))
            return [next(iterators[0])]

        return [load] * units


def source_of(dataset: Any, samples: int, indices: Sequence[Any] | None, group_size: int) -> Source:
    """How to read a dataset. Indices are drawn evenly over a dataset that has a length, unless they are given.

    Raises TraceError for something that is no dataset, that is empty, or that can be iterated only once.
    """
    if is_stream(dataset):
        if not hasattr(type(dataset), "__iter__"):
            raise TraceError(f"{type(dataset).__name__} is not a dataset: it has neither __getitem__ nor __iter__.")
        if hasattr(type(dataset), "__next__") and iter(dataset) is dataset:
            raise TraceError(f"{type(dataset).__name__} can be iterated only once. Give the dataset that makes it.")
        return Streamed(dataset, samples)
    if indices is None:
        indices = _spread_indices(dataset, samples)
    if not indices:
        raise TraceError(f"{type(dataset).__name__} is empty: there is no sample to trace.")
    if not _reads_groups(dataset):
        return Indexed(dataset, tuple((index,) for index in indices), grouped=False)
    size = max(1, min(group_size, len(indices)))
    starts = range(0, len(indices) - size + 1, size)
    return Indexed(dataset, tuple(tuple(indices[start : start + size]) for start in starts), grouped=True)


def is_stream(dataset: Any) -> bool:
    """Return whether a dataset is iterated, and not read by index."""
    kind = type(dataset)
    if any(base.__name__ == "IterableDataset" for base in kind.__mro__):
        return True
    return not hasattr(kind, "__getitem__")


def _reads_groups(dataset: Any) -> bool:
    """Whether a dataset reads several samples at once; `Subset` passes that on, and matters only where it ends so."""
    inner = dataset
    while type(inner).__module__.startswith("torch.utils.data") and hasattr(inner, "dataset"):
        inner = inner.dataset
    return hasattr(dataset, "__getitems__") and hasattr(inner, "__getitems__")


def _spread_indices(dataset: Any, samples: int) -> list[int]:
    """Indices from all over a dataset, always the same, in an order without a pattern."""
    known = length_of(dataset)
    length = samples if known is None else known
    count = min(samples, length)
    indices = [index * length // count for index in range(count)]
    random.Random(0).shuffle(indices)
    return indices
