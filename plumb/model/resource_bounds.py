"""Upper bounds on a configuration's rate by operational analysis, with the whole sample as one operator.

Each resource bounds the rate by its capacity over the demand of one sample (Denning and Buzen 1978; for input pipelines
Kuchnik et al., MLSys 2022). The smallest bound is the bottleneck. Worker counts may be arrays, so that many
configurations are predicted at once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from plumb.core.config import Config
from plumb.core.plan import Prediction
from plumb.model.demand import Demand, demand, filling_demand
from plumb.model.inputs import ModelInputs

# A bound this close to the smallest binds already, so it isn't the next one.
_SAME = 1.001
EPOCHS = 10
"""Number of epochs that a training is assumed to last, which matters if its first epoch fills a store."""


def capacities(inputs: ModelInputs, wanted: Demand, workers: Any, step_cpu_seconds: float) -> dict[str, Any]:
    """Return each resource's limit in samples per second; infinite if a sample doesn't use the resource.

    Args:
        inputs: Costs and limits.
        wanted: Demand of a sample.
        workers: Number of workers, or an array of numbers; with 0, the main process makes the samples.
        step_cpu_seconds: CPU seconds that the training step uses per sample.

    """
    workers = np.asarray(workers, dtype=float)
    alone, at_once = workers == 0, np.maximum(workers, 1.0)
    calibration = inputs.calibration.of(wanted.cpu_seconds)
    slow_down = calibration.slow_down(_computing(wanted, workers), inputs.limits.cpus)
    making = wanted.seconds(slow_down, crowd(inputs, wanted, workers))
    in_main = wanted.main_seconds + np.where(alone, making, 0.0)
    outstanding = at_once * wanted.fetch_threads
    return {
        "workers": np.where(alone, math.inf, _over(at_once, making)),
        "main process": _over(1.0, in_main),
        "cpu": _over(
            cores(inputs, wanted, workers, step_cpu_seconds),
            (wanted.cpu_seconds + wanted.switching_cpu_seconds) * slow_down + wanted.main_seconds + step_cpu_seconds,
        ),
        "storage": _over(_storage_bytes_per_second(inputs, outstanding), wanted.read_bytes),
        "transfer": _over(inputs.transfer_bytes_per_second or math.inf, wanted.output_bytes),
    }


def bounds(inputs: ModelInputs, config: Config) -> dict[str, float]:
    """Return each resource's limit in the training loop, including the step, in samples per second.

    Resources that a sample does not use are left out. The step's CPU use is part of the demand on the cores.
    """
    wanted, step = demand(inputs, config), inputs.step_samples_per_second
    limits = capacities(inputs, wanted, config.num_workers, inputs.step_cpu_seconds)
    if step:
        in_main = wanted.main_seconds + main_seconds_of_step(inputs)
        limits["step"] = 1.0 / in_main if inputs.step_blocks else step
    return {resource: float(limit) for resource, limit in limits.items() if math.isfinite(limit)}


def predict(inputs: ModelInputs, config: Config) -> Prediction:
    """Predict the loop's rate with `config`, its bottleneck, the next bound, and each resource's utilization."""
    limits = bounds(inputs, config)
    bottleneck = min(limits, key=lambda resource: limits[resource])
    rate = limits[bottleneck]
    later = {resource: limit for resource, limit in limits.items() if limit > rate * _SAME}
    then = min(later, key=lambda resource: later[resource]) if later else None
    return Prediction(rate, bottleneck, {name: rate / limit for name, limit in limits.items()}, limits, then)


def loader_rates(inputs: ModelInputs, wanted: Demand, workers: Any, persistent: Any) -> Any:
    """Return the samples per second that the loader alone should deliver, including each epoch's start of workers.

    Args:
        inputs: Costs and limits.
        wanted: Demand of a sample.
        workers: Number of workers, or an array of numbers.
        persistent: Whether the workers outlive an epoch, or an array of the same shape.

    """
    steady = np.minimum.reduce(np.broadcast_arrays(*capacities(inputs, wanted, workers, 0.0).values()))
    start = np.where(persistent, 0.0, inputs.start_seconds(workers))
    return amortized(steady, inputs.epoch_samples, start)


def ceilings(inputs: ModelInputs, wanted: Demand, workers: Any) -> Any:
    """Return the samples per second that the rest of the loop allows a loader with workers to deliver.

    The limit is the step, the CPU shared with it, or the main process, which alternates between receiving batches and
    its part of the step.

    Args:
        inputs: Costs and limits.
        wanted: Demand of a sample.
        workers: Number of workers, or an array of numbers.

    """
    step = inputs.step_samples_per_second or math.inf
    shared = capacities(inputs, wanted, workers, inputs.step_cpu_seconds)["cpu"]
    in_main = _over(1.0, wanted.main_seconds + main_seconds_of_step(inputs))
    return np.minimum.reduce(np.broadcast_arrays(step, shared, in_main))


def loop_rates(inputs: ModelInputs, wanted: Demand, workers: Any, loader_samples_per_second: Any) -> Any:
    """Return the training loop's samples per second with a given loader.

    Without workers, loading and stepping alternate. With workers, the slowest part determines the rate.

    Args:
        inputs: Costs and limits.
        wanted: Demand of a sample.
        workers: Number of workers, or an array of numbers.
        loader_samples_per_second: Rate of the loader alone, or an array of the same shape.

    """
    step = inputs.step_samples_per_second
    if step is None:
        return loader_samples_per_second
    by_turns = 1.0 / (1.0 / np.asarray(loader_samples_per_second) + 1.0 / step)
    together = np.minimum(loader_samples_per_second, ceilings(inputs, wanted, workers))
    return np.where(np.asarray(workers) == 0, by_turns, together)


def loader_rate(inputs: ModelInputs, config: Config) -> float:
    """Return `loader_rates` for one configuration."""
    wanted = demand(inputs, config)
    return float(loader_rates(inputs, wanted, config.num_workers, config.persistent_workers))


def loop_rate(inputs: ModelInputs, config: Config, loader_samples_per_second: float) -> float:
    """Return `loop_rates` for one configuration."""
    return float(loop_rates(inputs, demand(inputs, config), config.num_workers, loader_samples_per_second))


def filling_rates(inputs: ModelInputs, config: Config, workers: Any) -> Any:
    """Return the training loop's samples per second in the first epoch, which fills the store of `config`.

    Workers start in this epoch, even if they persist. `workers` replaces the number in `config`, and may be an array.
    """
    wanted = filling_demand(inputs, config)
    return loop_rates(inputs, wanted, workers, loader_rates(inputs, wanted, workers, False))


def filling_rate(inputs: ModelInputs, config: Config) -> float:
    """Return `filling_rates` for one configuration."""
    return float(filling_rates(inputs, config, config.num_workers))


def making_rate(inputs: ModelInputs, config: Config) -> float:
    """Return the samples per second, within an epoch, of a loader on `config` whose store has no values yet."""
    wanted = filling_demand(inputs, config)
    return float(loader_rates(inputs, wanted, config.num_workers, True))


def over_a_training(inputs: ModelInputs, config: Config, later: Any, workers: Any) -> Any:
    """Return the loop's samples per second over `EPOCHS` epochs, the first of which fills the store.

    Args:
        inputs: Costs and limits.
        config: Configuration; without a store, the result is `later`.
        later: Rate of later epochs in samples per second, or an array.
        workers: Number of workers in place of that in `config`, or an array of the same shape.

    """
    if config.cache is None:
        return later
    filling = np.asarray(filling_rates(inputs, config, workers))
    with np.errstate(divide="ignore"):
        return EPOCHS / ((EPOCHS - 1) / np.asarray(later) + 1 / filling)


def training_rate(inputs: ModelInputs, config: Config, loader_samples_per_second: float) -> float:
    """Return the loop's samples per second over a whole training, from the loader's rate in later epochs."""
    later = loop_rate(inputs, config, loader_samples_per_second)
    return float(over_a_training(inputs, config, later, config.num_workers))


def expected_rate(inputs: ModelInputs, config: Config) -> float:
    """Return `training_rate` with the loader's rate by the bounds."""
    return training_rate(inputs, config, loader_rate(inputs, config))


def main_seconds_of_step(inputs: ModelInputs) -> float:
    """Return the seconds per sample for which the step occupies the main process's thread.

    That is the whole step if it blocks, else the step's CPU seconds.
    """
    step = inputs.step_samples_per_second
    if not step:
        return 0.0
    return 1.0 / step if inputs.step_blocks else min(1.0 / step, inputs.step_cpu_seconds)


def fed_rate(inputs: ModelInputs) -> float:
    """Return the samples per second of a loop that never waits for a batch; infinite if the step isn't known.

    That is the step's rate, unless receiving batches and stepping in alternation takes the main process longer.
    """
    if not inputs.step_samples_per_second:
        return math.inf
    in_main = inputs.cost_in_worker.main_seconds + main_seconds_of_step(inputs)
    return min(inputs.step_samples_per_second, 1.0 / in_main if in_main > 0 else math.inf)


def seconds_until_steady(inputs: ModelInputs, workers: Any, in_flight: Any, samples_per_second: Any) -> Any:
    """Return the seconds to start the workers, fill the prefetch queue, and load one round of counted batches.

    Args:
        inputs: Costs and limits.
        workers: Number of workers, or an array of numbers.
        in_flight: Number of prefetched batches, or an array of the same shape.
        samples_per_second: Rate of the loader, or an array of the same shape.

    """
    # With an unlimited rate a round takes no time, and with a rate of 0 for ever.
    with np.errstate(divide="ignore"):
        samples = (in_flight + np.maximum(workers, 1)) * inputs.samples_per_batch
        return inputs.start_seconds(workers) + samples / np.asarray(samples_per_second)


def amortized(samples_per_second: Any, epoch_samples: float | None, start_seconds: Any) -> Any:
    """Return the rate over an epoch that begins with a wait.

    Args:
        samples_per_second: Rate after the wait, or an array.
        epoch_samples: Samples per epoch; None for an endless epoch, whose rate stays unchanged.
        start_seconds: Seconds of waiting, or an array of the same shape.

    """
    if epoch_samples is None:
        return samples_per_second
    return 1.0 / (1.0 / np.asarray(samples_per_second) + start_seconds / epoch_samples)


def crowd(inputs: ModelInputs, wanted: Demand, workers: Any) -> Any:
    """Return the share of the other cores that the other workers keep busy, as seen by each worker."""
    cpus = inputs.limits.cpus
    return np.clip((_computing(wanted, workers) - 1.0) / max(cpus - 1.0, 1e-9), 0.0, 1.0) if cpus > 1 else 1.0


def cores(inputs: ModelInputs, wanted: Demand, workers: Any, step_cpu_seconds: float) -> Any:
    """Return the CPU seconds per second that the loop gets within its limits and beside other processes."""
    allowed, competition = inputs.limits.cpus, inputs.competition
    if competition is None:
        return allowed
    computing = _computing(wanted, workers)
    in_main = (wanted.main_seconds + step_cpu_seconds) / max(wanted.cpu_seconds, 1e-12)
    beside = np.where(np.asarray(workers) == 0, 0.0, np.minimum(1.0, computing * in_main))
    return np.minimum(allowed, competition.left(computing + beside))


def _computing(wanted: Demand, workers: Any) -> Any:
    """Return the average number of processes that compute at once, at least the one that makes samples."""
    return np.maximum(1.0, np.maximum(workers, 1.0) * _share_computing(wanted))


def _share_computing(wanted: Demand) -> float:
    """Return the cores that an unhindered sample-making process keeps busy."""
    seconds = min(wanted.seconds(crowd=0.0), wanted.seconds(crowd=1.0))
    return (wanted.cpu_seconds + wanted.switching_cpu_seconds) / seconds if seconds > 0 else 1.0


def _storage_bytes_per_second(inputs: ModelInputs, outstanding: Any) -> Any:
    if inputs.storage is None:
        return math.inf
    return np.interp(outstanding, inputs.storage.outstanding, inputs.storage.bytes_per_second)


def _over(capacity: Any, wanted: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(np.asarray(wanted) > 0, np.divide(capacity, wanted), math.inf)
