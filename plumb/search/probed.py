"""What a short run that calibrates the model showed: what its samples cost, and what its workers took."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from plumb.config import Config
from plumb.model import feasible
from plumb.model.calibration import (
    ProbeRun,
    calibrated,
    cost_in_worker,
    crowded,
    spread_of,
    with_waiting,
    without_queueing,
)
from plumb.model.competition import Competition
from plumb.model.demand import cheaper_in_reused_memory, demand
from plumb.model.situation import Situation
from plumb.profile.memory import Pages, counted_bytes, pages
from plumb.search.measure import Feed

# A worker that made fewer bytes of its parent's its own during a probe is taken to have all that it needs.
_GROWS_BYTES = 2**16
# A run that would have had so many times the CPU alone lacked it; others stand in line by chance of where they run.
_LACKED = 4 / 3
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
    queued = used.seconds - seconds
    return ProbeRun(workers, used.samples, seconds, used.worker_cpu_seconds, used.main_cpu_seconds, queued)


def largest(feed: Feed) -> Pages:
    """The pages of the worker that has most of its own."""
    return max(map(pages, feed.worker_pids), key=lambda its: its.private_bytes, default=Pages(0.0, 0.0))


def told_by_one(
    situation: Situation, one: Probed, drop_seconds_per_byte: float, competition: Competition | None = None
) -> Situation:
    """The situation with what a run with one worker in fresh memory teaches of samples, memory, and the hand-over.

    `drop_seconds_per_byte` is what the main process takes to give a batch's memory back. Where the run stood in line
    for a CPU, others did so as long as it did: they want more than they had, which `competition` tells.
    """
    footprint = situation.footprint
    longer = one.run.wanted_cpus / max(one.run.used_cpus, 1e-9)
    if competition is not None and longer > _LACKED:
        competition = replace(competition, others_cpus=competition.others_cpus * longer)
    return replace(
        _with_start(situation, one),
        competition=competition,
        cost_in_worker=cost_in_worker(situation.cost, one.run),
        footprint=replace(
            footprint,
            worker_private_bytes=one.worker_private_bytes,
            worker_growth_bytes=one.growth_bytes,
            parted_bytes=one.parted_bytes,
        ),
        worker_overlap=one.run.overlap,
        calibration=calibrated(one.run, situation.samples_per_batch, footprint.batch_bytes, drop_seconds_per_byte),
    )


def in_reused_memory(situation: Situation, config: Config) -> Config:
    """`config` in reused memory, where that may be had and fits: there workers get most done, and so crowd most."""
    reusing = replace(config, allocator_reuse=True)
    may = situation.allocator is not None and feasible.broken_limit(reusing, situation) is None
    return reusing if may else config


def told_by_many(situation: Situation, one: Probed, config: Config, many: Probed, cores: float) -> Situation:
    """The situation of `told_by_one` with what a run of `config`, with about as many workers as cores, teaches.

    What a worker takes in reused memory was seen in the main process only, in a look. Where several that compute take
    less each, the look was wrong, and that says nothing of fresh memory. Where they wait, less rest makes them quicker.
    """
    spread, alone = spread_of(situation.batch_seconds), demand(situation, config).cpu_seconds
    competition = situation.competition
    if competition is not None:
        competition = competition.as_seen(many.run.wanted_cpus, many.run.used_cpus)
    computes = situation.cost.wait_seconds < situation.cost.cpu_seconds
    if config.allocator_reuse and computes and many.run.cpu_seconds_in_worker < alone:
        alone = many.run.cpu_seconds_in_worker
        situation = cheaper_in_reused_memory(situation, alone)
    return replace(
        _with_start(situation, many),
        cost=with_waiting(situation.cost, one.run, many.run, spread),
        cost_in_worker=cost_in_worker(situation.cost, one.run, many.run, spread),
        calibration=crowded(situation.calibration, many.run, alone, cores),
        competition=competition,
    )


def _with_start(situation: Situation, probed: Probed) -> Situation:
    in_main, in_worker = probed.start_seconds_each(situation.limits.cpus)
    return replace(situation, start_seconds_in_main=in_main, start_seconds_in_worker=in_worker)


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
