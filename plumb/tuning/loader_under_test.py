"""Input and result of a loader's tuning."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from plumb.core.config import Config
from plumb.core.plan import Measured, Rejection, SampleCost, Trial
from plumb.core.sized import length_of
from plumb.model.inputs import ModelInputs, SearchSpace
from plumb.rewrites.find_rewrites import AvailableRewrites
from plumb.runtime.loader import index_sampler
from plumb.tuning.measure.sample_cost import MeasuredSamples
from plumb.tuning.script_forecast import NOTHING, BetweenEpochs


@dataclass(frozen=True)
class TrainingStep:
    """Training step of the user's own loop: its largest rate, and its CPU seconds per sample.

    `blocks` says that the loop waits until the step is done, as it does without an accelerator, or if it reads a loss
    in every step. If the step uses batches in page-locked memory, `pageable_samples_per_second` is its rate without
    them.
    """

    samples_per_second: float
    cpu_seconds: float
    blocks: bool
    pageable_samples_per_second: float | None = None

    @property
    def wants_pinned(self) -> bool:
        """True if batches in page-locked memory make the step faster."""
        return self.pageable_samples_per_second is not None


@dataclass(frozen=True)
class LoaderUnderTest:
    """Loader to tune, and what is known about it before.

    `waiting_share` is the share of the loop's time that waits for data, None if it is unknown. `changed` is the place
    in the dataset that the loop changes during an epoch, empty if there is none. `is_decided_in_loop` says that the
    user's loop afterwards compares the choice with the user's configuration, and decides. `skips` are the classes of
    the samples' errors that the user's loop catches. `between` is what the script seems to do between epochs.
    `was_read` says that batches were taken before the tuning.
    """

    name: str
    loader: DataLoader[Any]
    samples_per_batch: float
    step: TrainingStep | None
    waiting_share: float | None
    changed: str = ""
    is_decided_in_loop: bool = False
    skips: tuple[type[Exception], ...] = ()
    between: BetweenEpochs = NOTHING
    was_read: bool = False

    @property
    def epoch_samples(self) -> float | None:
        """Number of samples per epoch of the loader's iterator; None if it has no length, or never ends.

        Some loaders keep one iterator for the whole training, over an endless sampler, and call a part of it an epoch:
        timm's `MultiEpochsDataLoader` and YOLO's `InfiniteDataLoader` do.
        """
        length = length_of(self.loader)
        is_stream = isinstance(self.loader.dataset, IterableDataset)
        if length is None or (not is_stream and length_of(index_sampler(self.loader)) is None):
            return None
        whole = length * self.samples_per_batch
        samples = None if self.loader.batch_size is None else length_of(self.loader.sampler)
        # The last batch may be smaller, or may be dropped.
        return whole if samples is None else min(whole, float(samples))


@dataclass(frozen=True)
class TuningResult:
    """Result of a loader's tuning, with its inputs and the number of samples loaded.

    `plain` is the best of torch's own arguments alone. `untried` is the model's best configuration if there was no time
    for any trial: the user's loop tries it. `undecided` is a sentence on a candidate that may be better, empty if there
    is none; a loop decides by itself. `rejected` are the configurations that were compared and not chosen.
    """

    baseline: Measured
    tuned: Measured
    plain: Measured
    inputs: ModelInputs
    search_space: SearchSpace
    available: AvailableRewrites
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]
    samples_loaded: float
    untried: Config | None = None
    undecided: str = ""
    rejected: tuple[Rejection, ...] = ()

    def rejecting(self, rejection: Rejection) -> TuningResult:
        """Return a copy with one more configuration that was compared and not chosen."""
        return dataclasses.replace(self, rejected=(*self.rejected, rejection))

    def noting(self, note: str) -> TuningResult:
        """Return a copy with one more sentence."""
        return dataclasses.replace(self, notes=(*self.notes, note))

    def having_loaded(self, samples: float) -> TuningResult:
        """Return a copy with `samples` more loaded samples."""
        return dataclasses.replace(self, samples_loaded=self.samples_loaded + samples)


def cost_of(seen: MeasuredSamples, available: AvailableRewrites) -> SampleCost:
    """Return a sample's cost; the trace's if only one batch was measured, which includes opening files and clients."""
    pipeline = available.pipeline
    if pipeline is None or len(seen.batch_seconds) > 1:
        return seen.cost
    return dataclasses.replace(
        seen.cost,
        wall_seconds=pipeline.sample_seconds,
        cpu_seconds=pipeline.sample_cpu_seconds,
        wait_seconds=pipeline.sample_wait_seconds,
    )
