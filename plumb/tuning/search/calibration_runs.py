"""Results of the short runs that calibrate the model: costs of samples, and of workers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from plumb.core.config import Config
from plumb.host.process_memory import Pages, pages, reference_count_bytes
from plumb.model import constraints
from plumb.model.calibration import (
    ProbeRun,
    calibrated,
    cost_in_worker,
    crowded,
    spread_of,
    with_waiting,
    without_queueing,
)
from plumb.model.cpu_contention import CpuCompetition
from plumb.model.demand import cheaper_in_reused_memory, demand
from plumb.model.inputs import ModelInputs
from plumb.tuning.measure.throughput import MeasuredLoader

# A worker that copied fewer bytes of its parent's pages than this during a probe is taken not to grow any more.
_GROWS_BYTES = 2**16
# A run that wanted this multiple of the CPU it got lacked CPU; below that, queueing is an accident of scheduling.
_LACKED = 4 / 3
# The objects of a dataset lie in pages with others.
_PAGES_OF_COUNTS = 2.0


@dataclass(frozen=True)
class CalibrationRun:
    """Result of a calibrating run: its cost, the private bytes of its largest worker, and the workers' start.

    `growth_bytes` is the predicted growth of that worker over an epoch. `parted_bytes` is the run's memory in addition
    to a batch and the workers' private pages. `start_seconds` is the start of all workers; `main_start_seconds` is the
    part of it in the main process.
    """

    run: ProbeRun
    worker_private_bytes: float
    growth_bytes: float
    parted_bytes: float
    start_seconds: float
    main_start_seconds: float

    def start_seconds_each(self, cores: float) -> tuple[float, float]:
        """Return the seconds that a worker's start takes in the main process, and in the worker itself.

        The main process starts workers one after another; their own parts run in parallel on `cores` CPUs.
        """
        rounds = max(1.0, self.run.num_workers / max(1.0, cores))
        return self.main_start_seconds / self.run.num_workers, (self.start_seconds - self.main_start_seconds) / rounds


def probe_run(loader: MeasuredLoader) -> ProbeRun:
    """Return the costs of the last window of a loader with workers."""
    used, workers = loader.usage, loader.config.num_workers
    seconds = without_queueing(used.seconds, workers, used.worker_queued_seconds)
    queued = used.seconds - seconds
    return ProbeRun(workers, used.samples, seconds, used.worker_cpu_seconds, used.main_cpu_seconds, queued)


def largest_worker(loader: MeasuredLoader) -> Pages:
    """Return the pages of the worker with the most private bytes."""
    return max(map(pages, loader.worker_pids), key=lambda its: its.private_bytes, default=Pages(0.0, 0.0))


def calibrate_with_one_worker(
    inputs: ModelInputs, one: CalibrationRun, drop_seconds_per_byte: float, competition: CpuCompetition | None = None
) -> ModelInputs:
    """Calibrate the model inputs with a run of one worker in fresh memory: costs of samples, memory, and transfer.

    Args:
        inputs: Model inputs before the run.
        one: Result of the run.
        drop_seconds_per_byte: Seconds per byte that the main process takes to free a batch's memory.
        competition: CPU use of other processes; if the run lacked CPU, they are taken to want as much more as it did.
    """
    footprint = inputs.footprint
    longer = one.run.wanted_cpus / max(one.run.used_cpus, 1e-9)
    if competition is not None and longer > _LACKED:
        competition = replace(competition, others_cpus=competition.others_cpus * longer)
    return replace(
        _with_start(inputs, one),
        competition=competition,
        cost_in_worker=cost_in_worker(inputs.cost, one.run),
        footprint=replace(
            footprint,
            worker_private_bytes=one.worker_private_bytes,
            worker_growth_bytes=one.growth_bytes,
            parted_bytes=one.parted_bytes,
        ),
        worker_overlap=one.run.overlap,
        calibration=calibrated(one.run, inputs.samples_per_batch, footprint.batch_bytes, drop_seconds_per_byte),
    )


def with_malloc_reuse(inputs: ModelInputs, config: Config) -> Config:
    """Return `config` with reused memory if that is available and fits; workers then work, and compete, the most."""
    reusing = replace(config, allocator_reuse=True)
    may = inputs.allocator is not None and constraints.broken_limit(reusing, inputs) is None
    return reusing if may else config


def calibrate_with_many_workers(
    inputs: ModelInputs, one: CalibrationRun, config: Config, many: CalibrationRun, cores: float
) -> ModelInputs:
    """Calibrate the model inputs of `calibrate_with_one_worker` further, with a run of about as many workers as cores.

    The cost in reused memory was measured briefly, and in the main process only. If several computing workers use less
    CPU time each, that measurement was wrong, which affects only reused memory. If samples wait, shorter pauses make
    workers faster.

    Args:
        inputs: Model inputs as calibrated by one worker.
        one: Result of the run with one worker.
        config: Configuration of the second run.
        many: Result of the second run.
        cores: Number of available CPUs.
    """
    spread, alone = spread_of(inputs.batch_seconds), demand(inputs, config).cpu_seconds
    competition = inputs.competition
    if competition is not None:
        competition = competition.as_seen(many.run.wanted_cpus, many.run.used_cpus)
    computes = inputs.cost.wait_seconds < inputs.cost.cpu_seconds
    if config.allocator_reuse and computes and many.run.cpu_seconds_in_worker < alone:
        alone = many.run.cpu_seconds_in_worker
        inputs = cheaper_in_reused_memory(inputs, alone)
    return replace(
        _with_start(inputs, many),
        cost=with_waiting(inputs.cost, one.run, many.run, spread),
        cost_in_worker=cost_in_worker(inputs.cost, one.run, many.run, spread),
        calibration=crowded(inputs.calibration, many.run, alone, cores),
        competition=competition,
    )


def _with_start(inputs: ModelInputs, probed: CalibrationRun) -> ModelInputs:
    in_main, in_worker = probed.start_seconds_each(inputs.limits.cpus)
    return replace(inputs, start_seconds_in_main=in_main, start_seconds_in_worker=in_worker)


def growth_bytes(dataset: Any, before: Pages, after: Pages, samples: float, epoch_samples: float | None) -> float:
    """Return the bytes by which a worker would grow over an epoch by copying its parent's pages.

    Over several epochs a worker may load every sample, so the whole epoch counts. The growth is limited by the pages
    that the worker still shares, and by those that contain the objects of `dataset`.

    Args:
        dataset: The worker's dataset.
        before: Pages at the start of the run.
        after: Pages at its end.
        samples: Number of samples that the worker loaded in between.
        epoch_samples: Number of samples per epoch; None for an endless one.
    """
    made_own = before.shared_bytes - after.shared_bytes
    if made_own < _GROWS_BYTES or samples <= 0:
        return 0.0
    may_grow = min(after.shared_bytes, _PAGES_OF_COUNTS * reference_count_bytes(dataset))
    return min(may_grow, math.inf if epoch_samples is None else made_own / samples * epoch_samples)
