"""What epochs of `plumb run` cost beside their batches: three short ones, on the runtime that a run would have.

A trial's loader has no guards, and its workers start once. An epoch of a run looks at the dataset, makes its first
batches a second time, and starts and ends workers. What that takes is measured, and not guessed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from plumb.config import Config
from plumb.plan import LoaderPlan
from plumb.profile.randomness import kept_generators
from plumb.runtime.planned import Planned
from plumb.runtime.stored import Stored

REHEARSED_EPOCHS = 3
"""The third is like all that follow: some of what plumb checks, it checks in the second."""


@dataclass(frozen=True)
class EpochCosts:
    """Seconds of epochs beside those of their batches: of the first two and of later ones, and of the user's own."""

    first: float
    second: float
    later: float
    own: float


NO_COSTS = EpochCosts(0.0, 0.0, 0.0, 0.0)


def rehearsed(
    loader: DataLoader[Any],
    planned: LoaderPlan,
    batches: Sequence[Any],
    samples_per_second: float,
    stored: Stored | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> EpochCosts | None:
    """Measure what epochs cost on a plan; None where it can't be told.

    Args:
        loader: The user's loader, as the script has it.
        planned: The entry of the plan.
        batches: Indices of batches, one for each worker at least.
        samples_per_second: The rate at which the plan makes samples that are in no store yet.
        stored: The plan's store, as a trial has had it; its fingerprint is taken in every epoch.
        clock: Returns seconds.

    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None or not batches:
        return None
    own, config = planned.baseline.config, planned.config
    # What the store saves belongs to its batches.
    entry = dataclasses.replace(
        planned, claim=None, tuned=dataclasses.replace(planned.tuned, config=dataclasses.replace(config, cache=None))
    )
    with kept_generators(), contextlib.suppress(Exception):
        looking = _seconds_to_look(stored, loader.dataset, clock)
        short = _short(loader, own, batches)
        lasting = Planned(short, entry, own)

        def begin() -> Iterable[Any]:
            return lasting.start_unseen(short, lambda: iter(short), lambda text: None)

        epochs = [_epoch_seconds(begin, clock) for _ in range(REHEARSED_EPOCHS)]
        samples, plain = len(batches) * planned.samples_per_batch, 0.0
        making, own_making = samples / samples_per_second, samples / planned.baseline.samples_per_second
        if own.num_workers:
            plain = max(0.0, _epoch_seconds(lambda: short, clock) - own_making)
        first, second, later = (max(0.0, seconds - making) + looking for seconds in epochs)
        return EpochCosts(first, second, later, plain)
    return None


def _short(loader: DataLoader[Any], own: Config, batches: Sequence[Any]) -> DataLoader[Any]:
    """Return a loader with the parts and the configuration of the user's, for a few batches."""
    short: DataLoader[Any] = DataLoader(
        loader.dataset,
        batch_sampler=list(batches),
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if own.num_workers else None,
        **own.loader_arguments(),
    )
    return short


def _epoch_seconds(begin: Callable[[], Iterable[Any]], clock: Callable[[], float]) -> float:
    begun = clock()
    batches = iter(begin())
    for _ in batches:
        pass
    del batches
    return clock() - begun


def _seconds_to_look(stored: Stored | None, dataset: Any, clock: Callable[[], float]) -> float:
    """Seconds that it takes to find out whether a store is still that of its dataset."""
    if stored is None:
        return 0.0
    begun = clock()
    stored.is_of(dataset)
    return clock() - begun
