"""Costs of epochs of `plumb run` in addition to their batches, from three short epochs on a run's own runtime.

A trial's loader has no guards, and its workers start only once. An epoch of a run checks the dataset, makes its first
batches a second time, and starts and ends workers. The time for that is measured here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from plumb.core.config import Config
from plumb.core.errors import PlumbError
from plumb.core.plan import LoaderResult
from plumb.instrument.rng_state import restored_generators
from plumb.runtime.loader import TorchsLoader
from plumb.runtime.planned_loader import PlannedLoader
from plumb.runtime.store.dataset_store import DatasetStore

REHEARSED_EPOCHS = 3
"""The third is like all later ones; some of plumb's checks happen in the second."""

# Workers that deliver nothing for so long are given up.
_SILENT_SECONDS = 4.0


@dataclass(frozen=True)
class EpochCosts:
    """Seconds of epochs in addition to their batches: of the first two and of later ones, and of the user's own."""

    first: float
    second: float
    later: float
    own: float


class PlanLeftError(PlumbError):
    """A run would not stay on the plan. The message says why."""


NO_COSTS = EpochCosts(0.0, 0.0, 0.0, 0.0)


def rehearse_epochs(
    loader: DataLoader[Any],
    planned: LoaderResult,
    batches: Sequence[Any],
    samples_per_second: float,
    stored: DatasetStore | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> EpochCosts | None:
    """Measure the seconds of epochs on a plan in addition to their batches; return None if that fails.

    Args:
        loader: The user's loader, as the script has it.
        planned: Entry of the plan.
        batches: Indices of batches, at least one per worker.
        samples_per_second: Rate at which the plan makes samples that are in no store yet.
        stored: The plan's store as in a trial; its fingerprint is computed in every epoch.
        clock: Returns seconds.

    Raises:
        PlanLeftError: The plan's configuration could not be kept up.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None or not batches:
        return None
    own, config = planned.baseline.config, planned.config
    # The store's savings are part of the batches.
    entry = dataclasses.replace(
        planned, claim=None, tuned=dataclasses.replace(planned.tuned, config=dataclasses.replace(config, cache=None))
    )
    said: list[str] = []
    lasting: PlannedLoader | None = None
    costs: EpochCosts | None = None
    with restored_generators(), contextlib.suppress(Exception):
        looking = _seconds_to_look(stored, loader.dataset, clock)
        short = _short(loader, own, batches)
        lasting = PlannedLoader(short, entry, own)
        lasting.rehearse(_SILENT_SECONDS)
        begin = partial(lasting.start_unseen, short, lambda: iter(short), said.append)
        epochs: list[float] = []
        while len(epochs) < REHEARSED_EPOCHS and not lasting.is_left:
            epochs.append(_epoch_seconds(begin, clock))
        samples, plain = len(batches) * planned.samples_per_batch, 0.0
        making, own_making = samples / samples_per_second, samples / planned.baseline.samples_per_second
        if own.num_workers and not lasting.is_left:
            plain = max(0.0, _epoch_seconds(lambda: short, clock) - own_making)
        first, second, later = (max(0.0, seconds - making) + looking for seconds in epochs)
        costs = EpochCosts(first, second, later, plain)
    if lasting is not None and lasting.is_left:
        raise PlanLeftError(said[-1] if said else "it was left")
    return costs


def _short(loader: DataLoader[Any], own: Config, batches: Sequence[Any]) -> DataLoader[Any]:
    """Return a loader with the user's parts and configuration, for a few batches."""
    return TorchsLoader(
        loader.dataset,
        batch_sampler=list(batches),
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if own.num_workers else None,
        **own.loader_arguments(),
    )


def _epoch_seconds(begin: Callable[[], Iterable[Any]], clock: Callable[[], float]) -> float:
    begun = clock()
    batches = iter(begin())
    for _ in batches:
        pass
    del batches
    return clock() - begun


def _seconds_to_look(stored: DatasetStore | None, dataset: Any, clock: Callable[[], float]) -> float:
    """Return the seconds to find out whether a store still belongs to its dataset."""
    if stored is None:
        return 0.0
    begun = clock()
    stored.is_of(dataset)
    return clock() - begun
