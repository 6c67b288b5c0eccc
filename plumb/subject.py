"""What a tuning is about, and what comes out of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from plumb.config import Config
from plumb.lengths import length_of
from plumb.model.situation import Freedom, Situation
from plumb.offers import Offers
from plumb.plan import Measured, SampleCost, Trial
from plumb.profile.sample import Sampled
from plumb.runtime.loader import index_sampler


@dataclass(frozen=True)
class Step:
    """The training step, from the user's own loop: what it could consume, and the CPU seconds it burns per sample.

    `blocks` is whether the loop stands still until it is done, as it does where no accelerator computes it, or where it
    reads a loss in every step. Where it takes batches in page-locked memory, `pageable_samples_per_second` is what it
    could consume without.
    """

    samples_per_second: float
    cpu_seconds: float
    blocks: bool
    pageable_samples_per_second: float | None = None

    @property
    def wants_pinned(self) -> bool:
        """Whether batches in page-locked memory were found to make it faster."""
        return self.pageable_samples_per_second is not None


@dataclass(frozen=True)
class Subject:
    """A loader to tune, and what is known of it before.

    `waiting_share` is the share of the loop's time that waits for data, None where it isn't known. `changed` is the
    place of what the loop changes of the dataset while an epoch runs, empty for nothing. `is_decided_in_loop` says that
    the user's loop is run on the choice and on the user's configuration afterwards, and has the last word. `skips` are
    the classes of the errors that the user's loop catches where a sample raises them.
    """

    name: str
    loader: DataLoader[Any]
    samples_per_batch: float
    step: Step | None
    waiting_share: float | None
    changed: str = ""
    is_decided_in_loop: bool = False
    skips: tuple[type[Exception], ...] = ()

    @property
    def epoch_samples(self) -> float | None:
        """How many samples an epoch of the loader's iterator has; None where the loader doesn't say, or it never ends.

        Some loaders keep one iterator for the whole training, over a sampler without an end, and call a part of it an
        epoch: timm's `MultiEpochsDataLoader` and YOLO's `InfiniteDataLoader` do.
        """
        length = length_of(self.loader)
        is_stream = isinstance(self.loader.dataset, IterableDataset)
        if length is None or (not is_stream and length_of(index_sampler(self.loader)) is None):
            return None
        whole = length * self.samples_per_batch
        samples = None if self.loader.batch_size is None else length_of(self.loader.sampler)
        # The last batch may be smaller; the last ones of an epoch may be left out.
        return whole if samples is None else min(whole, float(samples))


@dataclass(frozen=True)
class Choice:
    """What was found for one loader, from what, and how many samples were loaded for it.

    `plain` is the best of torch's own arguments alone. `untried` is what the model expects most of, where no time was
    left to try any configuration: the user's loop is to try it.
    """

    baseline: Measured
    tuned: Measured
    plain: Measured
    situation: Situation
    freedom: Freedom
    offers: Offers
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]
    samples_loaded: float
    untried: Config | None = None

    def noting(self, note: str) -> Choice:
        """The same with one sentence more."""
        return dataclasses.replace(self, notes=(*self.notes, note))

    def having_loaded(self, samples: float) -> Choice:
        """The same, found with so many samples more."""
        return dataclasses.replace(self, samples_loaded=self.samples_loaded + samples)


def cost_of(seen: Sampled, offers: Offers) -> SampleCost:
    """What a sample costs. A single batch opens files and clients that later ones find: then the trace knows better."""
    pipeline = offers.pipeline
    if pipeline is None or len(seen.batch_seconds) > 1:
        return seen.cost
    return dataclasses.replace(
        seen.cost,
        wall_seconds=pipeline.sample_seconds,
        cpu_seconds=pipeline.sample_cpu_seconds,
        wait_seconds=pipeline.sample_wait_seconds,
    )
