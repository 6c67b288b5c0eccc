"""Prediction from the loop's measurements of every other configuration, and choice of one that is worth a trial."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.core.plan import SampleCost
from plumb.core.sized import length_of
from plumb.host import Limits
from plumb.model import constraints, planner, resource_bounds
from plumb.model.calibration import ProbeRun, calibrated, cost_in_worker, crowded
from plumb.model.inputs import USUAL_WORKER_BYTES, AllocatorGain, Footprint, ModelInputs
from plumb.rewrites.find_rewrites import AvailableRewrites
from plumb.tracing.device.profile import uses_accelerator
from plumb.tuning.iterable_sharding import Sharding
from plumb.tuning.live.meter import MeteredLoop
from plumb.tuning.options import Options
from plumb.tuning.search.ledger import while_running
from plumb.tuning.search.search_space import WorkerStart, find_search_space, whole_cores
from plumb.tuning.search.stopping import RatePair, expected_gain, model_error


@dataclass(frozen=True)
class Batches:
    """Properties of the loop's batches: samples, bytes and tensors of one batch.

    `fresh_seconds` are a worker's CPU seconds per sample for untouched shared memory.
    """

    samples: float
    nbytes: float
    tensors: int
    fresh_seconds: float = 0.0


def inputs_from_readings(
    loader: DataLoader[Any],
    readings: Mapping[Config, MeteredLoop],
    batches: Batches,
    limits: Limits,
    epoch_batches: int | None,
    available: AvailableRewrites,
) -> ModelInputs:
    """Return the model's inputs from the loop's measurements.

    Args:
        loader: The user's loader.
        readings: Measurements by configuration; at least one must have waited for its loader.
        batches: Properties of the loop's batches.
        limits: Limits of the host.
        epoch_batches: Batches per epoch; None if unknown.
        available: Available rewrites with their costs.

    """
    with_workers = sorted(
        (reading for reading in readings.values() if reading.config.num_workers),
        key=lambda reading: reading.config.num_workers,
    )
    alone = next((reading for reading in readings.values() if not reading.config.num_workers), None)
    cost = _cost_alone(alone, batches) if alone else None
    in_worker, runs = cost, [reading.run for reading in with_workers]
    if runs:
        in_worker = cost_in_worker(cost or _empty(batches), runs[0])
        cost = cost or dataclasses.replace(in_worker, main_seconds=0.0)
    assert cost is not None
    assert in_worker is not None
    # The step is slower while workers share the CPU with it, so the shortest step is that of the step alone.
    step = min(readings.values(), key=lambda reading: reading.step_seconds)
    inputs = ModelInputs(
        cost,
        in_worker,
        Footprint(
            batch_bytes=batches.nbytes,
            tensors_per_batch=batches.tensors,
            worker_private_bytes=max(
                (reading.worker_private_bytes for reading in with_workers), default=USUAL_WORKER_BYTES
            ),
            main_bytes=psutil.Process().memory_info().rss,
            open_files=psutil.Process().num_fds(),
        ),
        limits,
        1.0 / step.step_seconds if step.step_seconds > 0 else None,
        step.step_cpu_seconds,
        None if epoch_batches is None else epoch_batches * batches.samples,
        samples_per_batch=batches.samples,
        dataset_samples=length_of(loader.dataset),
        cuts=available.cuts,
        deferrals=available.deferrals,
        threads=available.threads,
        source=available.source,
        read_bytes=cost.output_bytes if available.storage else 0.0,
        storage=available.storage,
        # The main process only receives batches, so it gains nothing from reused memory.
        allocator=AllocatorGain(1.0, 0.0),
        fresh_seconds=batches.fresh_seconds,
        step_blocks=not uses_accelerator(),
    )
    return _calibrated(inputs, runs) if runs else inputs


def worth_trying(
    loader: DataLoader[Any],
    own: Config,
    inputs: ModelInputs,
    readings: Mapping[Config, MeteredLoop],
    refused: Collection[Config],
    start: WorkerStart,
    gain: float,
    available: AvailableRewrites,
    options: Options,
) -> tuple[Config, float] | None:
    """Return the configuration with the most to gain and its predicted rate; None if none promises `gain`.

    A configuration must fit beside the one in use, because both run for a moment.

    Args:
        loader: The user's loader.
        own: Configuration of the user's loader.
        inputs: Inputs of the model.
        readings: Measurements to compare with; the best of them is in use.
        refused: Configurations not to be tried.
        start: Way in which workers may be started.
        gain: Smallest expected gain, as a share.
        available: Available rewrites, which only workers carry out.
        options: The user's limits and permissions.

    """
    # Which batches were delivered is known only if they come in order.
    options = dataclasses.replace(options, may_reorder=False)
    search_space = find_search_space(loader, own, options, available, inputs, Sharding(None), start, own.pin_memory)
    # A dataset that only workers have read must not be read here: later workers would share the files that it opens.
    counts = tuple(count for count in search_space.num_workers if bool(count) or not own.num_workers)
    search_space = dataclasses.replace(
        search_space,
        num_workers=counts or (own.num_workers,),
        # Workers persist for the segment in which they are measured.
        persistent_workers=(True,),
    )
    ranked = {candidate.config: candidate.samples_per_second for candidate in planner.rank(search_space, inputs).best}
    best = max(readings.values(), key=lambda reading: reading.rate.samples_per_second)
    seen = [
        RatePair(_predicted(inputs, reading.config, ranked), reading.rate.samples_per_second, reading.rate.interval)
        for reading in readings.values()
    ]
    error = model_error(seen)
    tried = {while_running(config) for config in (*readings, *refused)}
    gains = [
        (expected_gain(rate, error, best.rate.samples_per_second, best.rate.interval), rate, config)
        for config, rate in ranked.items()
        if (config.num_workers or not config.rewrites_samples)
        # Filling another store costs first what the store may save.
        and (best.config.cache is None or config.cache in (None, best.config.cache))
        and while_running(config) not in tried
        and constraints.fit_together((best.config, config), inputs)
    ]
    # Of equal gains, `max` takes the first, which is the cheaper one in the ranking.
    promised, rate, config = max(gains, key=lambda one: round(one[0], 2), default=(0.0, 0.0, own))
    return (config, rate) if promised >= gain else None


def _predicted(inputs: ModelInputs, config: Config, ranked: Mapping[Config, float]) -> float:
    lasting = dataclasses.replace(config, persistent_workers=config.num_workers > 0)
    return ranked.get(lasting) or resource_bounds.expected_rate(inputs, lasting)


def _cost_alone(reading: MeteredLoop, batches: Batches) -> SampleCost:
    """Return a sample's cost in the main process, which makes samples while the loop waits."""
    total = reading.total
    # The thread queued for a CPU during its step too, and that part is no cost of samples.
    queued = total.queued_seconds * total.wait_seconds / total.seconds
    cpu = total.wait_cpu_seconds / total.samples
    wall = max((total.wait_seconds - queued) / total.samples, cpu)
    return SampleCost(wall, cpu, wall - cpu, 0.0, batches.nbytes / batches.samples, batches.tensors / batches.samples)


def _empty(batches: Batches) -> SampleCost:
    return SampleCost(0.0, 0.0, 0.0, 0.0, batches.nbytes / batches.samples, batches.tensors / batches.samples)


def _calibrated(inputs: ModelInputs, runs: list[ProbeRun]) -> ModelInputs:
    cores = inputs.limits.cpus
    if not math.isfinite(cores):
        return inputs
    # All batches have the same size, so the handover's cost need not be divided into parts per batch and per byte.
    calibration = calibrated(runs[0], inputs.samples_per_batch, inputs.footprint.batch_bytes, 0.0)
    if runs[0].num_workers == 1:
        calibration = crowded(calibration, runs[-1], runs[0].cpu_seconds_in_worker, whole_cores(cores))
    return dataclasses.replace(inputs, calibration=calibration)
