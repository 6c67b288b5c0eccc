"""Rows that a loader reads one by one, though the dataset gives a whole batch of them at once: in-memory tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset
from torch.utils.data._utils.collate import default_convert

from plumb.profile.randomness import generator_states
from plumb.runtime.child_trial import Outcome
from plumb.trace.values import digest

# Where a row takes longer, calls are not what it takes.
_TINY_SECONDS = 2e-4
_FEWEST_ROWS = 16
# It is worth a word where whole batches are so many times as fast.
_WORTH_TIMES = 3.0
_REPETITIONS, _SECONDS = 5, 10.0


@dataclass(frozen=True)
class WholeBatches:
    """How much faster the dataset gives whole batches of `rows` rows, of the same bits, and the loader that asks so."""

    rows: int
    times_as_fast: float
    arguments: str

    def __str__(self) -> str:
        return (
            f"{self.rows} Python calls a batch are what your loader is busy with: it reads each row by itself, though "
            f"the dataset gives {self.rows} rows at once {self.times_as_fast:.0f} times as fast, bit for bit the same. "
            f"Write: DataLoader({self.arguments})"
        )


def whole_batches(
    loader: DataLoader[Any],
    indices: Sequence[Any],
    row_seconds: float,
    in_process: Callable[[Callable[[], Any], float], Outcome[Any]],
) -> WholeBatches | None:
    """Find out whether `dataset[[3, 1, 2]]` is what collating the rows 3, 1 and 2 gives, and much faster.

    Batches of several sizes, the last short one among them, are compared bit by bit.

    Args:
        loader: A loader of a map-style dataset that collates rows.
        indices: Indices of some rows.
        row_seconds: What it takes to make one row now.
        in_process: Does work in a process of its own, which may crash.

    Returns:
        What was found; None where rows take long, whole batches are no faster, or anything differs.

    """
    rows, dataset = loader.batch_size, loader.dataset
    if rows is None or min(rows, len(indices)) < _FEWEST_ROWS or row_seconds > _TINY_SECONDS:
        return None
    if isinstance(dataset, IterableDataset) or _reads_groups(dataset):
        return None
    outcome = in_process(partial(_times_as_fast, dataset, loader.collate_fn, list(indices), rows), _SECONDS)
    times = outcome.value
    if times is None or times < _WORTH_TIMES:
        return None
    return WholeBatches(rows, times, _arguments(loader, rows))


def _reads_groups(dataset: Any) -> bool:
    """Return whether torch asks the dataset for all rows of a batch at once already."""
    inner = dataset
    while isinstance(inner, Subset):
        inner = inner.dataset
    return callable(getattr(inner, "__getitems__", None))


def _times_as_fast(dataset: Any, collate: Callable[[Any], Any], indices: list[Any], rows: int) -> float | None:
    """Return how many times as fast whole batches are; None where something differs."""
    full = [indices[place % len(indices)] for place in range(rows)]

    def by_rows(batch: list[Any]) -> Any:
        return collate([dataset[index] for index in batch])

    def at_once(batch: list[Any]) -> Any:
        return default_convert(dataset[batch])  # type: ignore[no-untyped-call]

    states = generator_states([])
    for batch in (full, full[::-1], full[: rows // 3 + 1], full[:2], full[:1]):
        one, other = digest(by_rows(batch)), digest(at_once(batch))
        if one is None or one != other:
            return None
    if generator_states([]) != states:
        return None
    return _seconds(partial(by_rows, full)) / max(_seconds(partial(at_once, full)), 1e-9)


def _seconds(work: Callable[[], Any]) -> float:
    taken = []
    for _ in range(_REPETITIONS):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return median(taken)


def _arguments(loader: DataLoader[Any], rows: int) -> str:
    """Return the arguments of a loader that reads whole batches in the same order."""
    batches = f"BatchSampler({_sampler(loader.sampler)}, {rows}, drop_last={loader.drop_last})"
    if type(loader.batch_sampler) is not BatchSampler:
        batches = "your batch_sampler"
    return f"dataset, batch_size=None, sampler={batches}"


def _sampler(sampler: Any) -> str:
    if type(sampler) is RandomSampler and not sampler.replacement and sampler.generator is None:
        return "RandomSampler(dataset)"
    return "SequentialSampler(dataset)" if type(sampler) is SequentialSampler else "your sampler"
