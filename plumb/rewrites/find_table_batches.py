"""In-memory tables: rows that a loader reads one by one although the dataset can return a whole batch at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset
from torch.utils.data._utils.collate import default_convert

from plumb.core.config import WHOLE_BATCHES, Config
from plumb.host.forked_trial import ChildOutcome
from plumb.instrument.rng_state import generator_states
from plumb.instrument.values import digest
from plumb.model.inputs import DeferralCost, RemainingCpuShare
from plumb.runtime.table_batches import may_read_whole, whole_batch

# If a row takes longer, the time isn't spent on calls.
_TINY_SECONDS = 2e-4
_FEWEST_ROWS = 16
# Whole batches are mentioned if they are at least this many times as fast.
_WORTH_TIMES = 3.0
_REPETITIONS, _SECONDS = 5, 10.0


@dataclass(frozen=True)
class WholeBatches:
    """Speedup of reading whole batches of `rows` rows, bitwise equal, and the arguments of a loader that does so.

    `left` is the share of a sample's time that remains if plumb reads them at once; None if it can't.
    """

    rows: int
    times_as_fast: float
    arguments: str
    left: float | None = None

    @property
    def costs(self) -> tuple[DeferralCost, ...]:
        """Cost of reading whole batches by plumb; empty if it can't."""
        if self.left is None:
            return ()
        return (DeferralCost(WHOLE_BATCHES, RemainingCpuShare(self.left, self.left), 0.0, 0.0, 0.0),)

    def in_words(self, config: Config) -> str:
        """Return a sentence for the report of a loader that runs on `config`."""
        if config.reads_whole_batches:
            return f"each batch is read by one call instead of {self.rows}, bit for bit the same"
        return str(self)

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
    in_process: Callable[[Callable[[], Any], float], ChildOutcome[Any]],
) -> WholeBatches | None:
    """Return whether `dataset[[3, 1, 2]]` equals the collated rows 3, 1 and 2, and is much faster.

    Batches of several sizes, including a short last one, are compared bit by bit.

    Args:
        loader: A loader of a map-style dataset that collates rows.
        indices: Indices of some rows.
        row_seconds: Seconds to make one row now.
        in_process: Runs a function in a process of its own, which may crash.

    Returns:
        The result; None if rows take long, whole batches are no faster, or anything differs.
    """
    rows, dataset = loader.batch_size, loader.dataset
    if rows is None or min(rows, len(indices)) < _FEWEST_ROWS or row_seconds > _TINY_SECONDS:
        return None
    if isinstance(dataset, IterableDataset) or _reads_groups(dataset):
        return None
    chosen = [indices[place % len(indices)] for place in range(rows)]
    outcome = in_process(partial(_times_as_fast, dataset, loader.collate_fn, chosen, _by_list), _SECONDS)
    times = outcome.value
    if times is None or times < _WORTH_TIMES:
        return None
    left = None
    if may_read_whole(loader):
        own = in_process(partial(_times_as_fast, dataset, loader.collate_fn, chosen, _by_plumb), _SECONDS).value
        left = None if own is None or own < _WORTH_TIMES else 1 / own
    return WholeBatches(rows, times, _arguments(loader, rows), left)


def _reads_groups(dataset: Any) -> bool:
    """Return whether torch already requests all rows of a batch at once from the dataset."""
    inner = dataset
    while isinstance(inner, Subset):
        inner = inner.dataset
    return callable(getattr(inner, "__getitems__", None))


def _by_list(dataset: Any, batch: list[Any]) -> Any:
    return default_convert(dataset[batch])  # type: ignore[no-untyped-call]


def _by_plumb(dataset: Any, batch: list[Any]) -> Any:
    whole = whole_batch(dataset, batch)
    return None if whole is None else whole.batch


def _times_as_fast(
    dataset: Any, collate: Callable[[Any], Any], full: list[Any], at_once: Callable[[Any, list[Any]], Any]
) -> float | None:
    """Return how many times as fast whole batches are; None if anything differs."""

    def by_rows(batch: list[Any]) -> Any:
        return collate([dataset[index] for index in batch])

    states = generator_states([])
    for batch in (full, full[::-1], full[: len(full) // 3 + 1], full[:2], full[:1]):
        one, other = digest(by_rows(batch)), digest(at_once(dataset, batch))
        if one is None or one != other:
            return None
    if generator_states([]) != states:
        return None
    return _seconds(partial(by_rows, full)) / max(_seconds(partial(at_once, dataset, full)), 1e-9)


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
