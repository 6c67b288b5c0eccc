"""Sources of the samples to trace, loaded plainly or through a recorder: by index, in groups, or as a stream."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from plumb.core.errors import ExplainedError
from plumb.core.sized import length_of
from plumb.instrument.recorder import SAMPLE, Recorder

Load = Callable[[], list[Any]]


class TraceError(ExplainedError, ValueError):
    """A dataset can't be traced."""


class TraceTimeError(TraceError):
    """A trace passed its deadline."""


class SampleSource(Protocol):
    """Units of `unit_samples` samples each that can be loaded repeatedly."""

    @property
    def unit_samples(self) -> int: ...

    @property
    def samples(self) -> int:
        """Largest number of samples in one pass."""
        ...

    @property
    def interleaves(self) -> bool:
        """True if a plain and a recorded pass may alternate, unit by unit."""
        ...

    def loads(self, recorder: Recorder | None, units: int, reverse: bool = False) -> list[Load]:
        """Return one pass over the first `units` units: one function per unit, to be called in order.

        Args:
            recorder: Recorder of the samples; None loads them plainly.
            units: Number of units.
            reverse: Whether to load the units in reverse order; streams ignore it.

        """
        ...


@dataclass(frozen=True)
class Indexed:
    """A map-style dataset, read index by index, or in groups if it has its own `__getitems__`."""

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
    """An iterable dataset: each pass is a new iteration. Two passes never overlap, because they may share a file."""

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


def source_of(dataset: Any, samples: int, indices: Sequence[Any] | None, group_size: int) -> SampleSource:
    """Return the source that reads a dataset. Unless indices are given, they are spread over the dataset's length.

    Args:
        dataset: Dataset to read.
        samples: Number of samples.
        indices: Indices to read, or None.
        group_size: Samples per unit for a dataset that reads groups.

    Raises:
        TraceError: The object is no dataset, is empty, or can be iterated only once.

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
    """Return whether a dataset reads several samples at once; a `Subset` does only if its innermost dataset does."""
    inner = dataset
    while type(inner).__module__.startswith("torch.utils.data") and hasattr(inner, "dataset"):
        inner = inner.dataset
    return hasattr(dataset, "__getitems__") and hasattr(inner, "__getitems__")


def _spread_indices(dataset: Any, samples: int) -> list[int]:
    """Return indices from all over a dataset, the same for each call, in an order without a pattern."""
    known = length_of(dataset)
    length = samples if known is None else known
    count = min(samples, length)
    indices = [index * length // count for index in range(count)]
    random.Random(0).shuffle(indices)
    return indices
