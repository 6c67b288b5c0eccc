"""What a short run that calibrates the model showed: what its samples cost, and what its workers took."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from plumb.model.calibration import ProbeRun, without_queueing
from plumb.profile.memory import Pages, counted_bytes, pages
from plumb.search.measure import Feed

# A worker that made fewer bytes of its parent's its own during a probe is taken to have all that it needs.
_GROWS_BYTES = 2**16
# The objects of a dataset lie in pages with others.
_PAGES_OF_COUNTS = 2.0


@dataclass(frozen=True)
class Probed:
    """What a calibrating run showed: its cost, the bytes of its largest worker's own pages, and their start.

    `growth_bytes` is by how much that worker will grow in an epoch, `parted_bytes` what the run took beyond a batch and
    the pages of its workers' own. Of the `start_seconds` of all workers, those in the main process come first.
    """

    run: ProbeRun
    worker_private_bytes: float
    growth_bytes: float
    parted_bytes: float
    start_seconds: float
    main_start_seconds: float

    def start_seconds_each(self, cores: float) -> tuple[float, float]:
        """What the start of a worker takes in the main process, which starts one after another, and what in itself."""
        rounds = max(1.0, self.run.num_workers / max(1.0, cores))
        return self.main_start_seconds / self.run.num_workers, (self.start_seconds - self.main_start_seconds) / rounds


def run_of(feed: Feed) -> ProbeRun:
    """What the last window of a loader with workers spent."""
    used, workers = feed.usage, feed.config.num_workers
    seconds = without_queueing(used.seconds, workers, used.worker_queued_seconds)
    return ProbeRun(workers, used.samples, seconds, used.worker_cpu_seconds, used.main_cpu_seconds)


def largest(feed: Feed) -> Pages:
    """The pages of the worker that has most of its own."""
    return max(map(pages, feed.worker_pids), key=lambda its: its.private_bytes, default=Pages(0.0, 0.0))


def growth_bytes(dataset: Any, before: Pages, after: Pages, samples: float, epoch_samples: float | None) -> float:
    """By how much a worker would grow in an epoch that made pages of its parent its own while it made `samples`.

    A worker may be given every sample in the course of the epochs, so the whole epoch counts, however many share it;
    no more than the pages that it still shares, and those that hold the objects of `dataset`.
    """
    made_own = before.shared_bytes - after.shared_bytes
    if made_own < _GROWS_BYTES or samples <= 0:
        return 0.0
    may_grow = min(after.shared_bytes, _PAGES_OF_COUNTS * counted_bytes(dataset))
    return min(may_grow, math.inf if epoch_samples is None else made_own / samples * epoch_samples)
