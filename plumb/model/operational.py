"""What a configuration can deliver at most, by operational analysis, with the whole sample as one operator.

Each resource bounds the rate by its capacity over the demand of one sample (Denning and Buzen 1978; for input
pipelines Kuchnik et al., MLSys 2022). The smallest bound is the bottleneck. Worker counts may be arrays, so that many
configurations are told at once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from plumb.config import Config
from plumb.model.demand import Demand, demand, filling_demand
from plumb.model.situation import Situation
from plumb.plan import Prediction

# A bound this close to the smallest is not what would bind next: it binds already.
_SAME = 1.001
EPOCHS = 10
"""A training is taken to last for so many epochs, where it matters that the first one fills a store."""


def capacities(situation: Situation, wanted: Demand, workers: Any, step_cpu_seconds: float) -> dict[str, Any]:
    """Each resource's limit in samples per second where a sample costs `wanted`; infinite where it uses none of it.

    `workers` is a count or an array of them. Without workers the main process makes the samples. `step_cpu_seconds` is
    the CPU that something else burns for every sample.
    """
    workers = np.asarray(workers, dtype=float)
    alone, at_once = workers == 0, np.maximum(workers, 1.0)
    calibration = situation.calibration.of(wanted.cpu_seconds)
    slow_down = calibration.slow_down(_computing(wanted, workers), situation.limits.cpus)
    making = wanted.seconds(slow_down, crowd(situation, wanted, workers))
    in_main = wanted.main_seconds + np.where(alone, making, 0.0)
    outstanding = at_once * wanted.fetch_threads
    return {
        "workers": np.where(alone, math.inf, _over(at_once, making)),
        "main process": _over(1.0, in_main),
        "cpu": _over(
            cores(situation, wanted, workers, step_cpu_seconds),
            (wanted.cpu_seconds + wanted.switching_cpu_seconds) * slow_down + wanted.main_seconds + step_cpu_seconds,
        ),
        "storage": _over(_storage_bytes_per_second(situation, outstanding), wanted.read_bytes),
        "transfer": _over(situation.transfer_bytes_per_second or math.inf, wanted.output_bytes),
    }


def bounds(situation: Situation, config: Config) -> dict[str, float]:
    """Each resource's limit in the training loop, the step itself among them, in samples per second.

    A resource that a sample does not use has no entry. The CPU that the step burns is taken off the cores.
    """
    wanted, step = demand(situation, config), situation.step_samples_per_second
    limits = capacities(situation, wanted, config.num_workers, situation.step_cpu_seconds)
    if step:
        in_main = wanted.main_seconds + main_seconds_of_step(situation)
        limits["step"] = 1.0 / in_main if situation.step_blocks else step
    return {resource: float(limit) for resource, limit in limits.items() if math.isfinite(limit)}


def predict(situation: Situation, config: Config) -> Prediction:
    """The rate of `config`, capped at the step rate, its bottleneck, what binds next, and how much each is in use."""
    limits = bounds(situation, config)
    bottleneck = min(limits, key=lambda resource: limits[resource])
    rate = limits[bottleneck]
    later = {resource: limit for resource, limit in limits.items() if limit > rate * _SAME}
    then = min(later, key=lambda resource: later[resource]) if later else None
    return Prediction(rate, bottleneck, {name: rate / limit for name, limit in limits.items()}, limits, then)


def loader_rates(situation: Situation, wanted: Demand, workers: Any, persistent: Any) -> Any:
    """Samples per second that the loader alone should deliver, each epoch's start of workers included."""
    steady = np.minimum.reduce(np.broadcast_arrays(*capacities(situation, wanted, workers, 0.0).values()))
    start = np.where(persistent, 0.0, situation.start_seconds(workers))
    return amortized(steady, situation.epoch_samples, start)


def ceilings(situation: Situation, wanted: Demand, workers: Any) -> Any:
    """What the rest of the loop allows a loader with workers to deliver, in samples per second.

    That is the step, the CPU that both share, or the main process, which takes batches over and does its part of the
    step by turns.
    """
    step = situation.step_samples_per_second or math.inf
    shared = capacities(situation, wanted, workers, situation.step_cpu_seconds)["cpu"]
    in_main = _over(1.0, wanted.main_seconds + main_seconds_of_step(situation))
    return np.minimum.reduce(np.broadcast_arrays(step, shared, in_main))


def loop_rates(situation: Situation, wanted: Demand, workers: Any, loader_samples_per_second: Any) -> Any:
    """Samples per second of the training loop with a loader that alone delivers so many.

    Without workers the loop loads and steps by turns. With them the slowest sets the pace.
    """
    step = situation.step_samples_per_second
    if step is None:
        return loader_samples_per_second
    by_turns = 1.0 / (1.0 / np.asarray(loader_samples_per_second) + 1.0 / step)
    together = np.minimum(loader_samples_per_second, ceilings(situation, wanted, workers))
    return np.where(np.asarray(workers) == 0, by_turns, together)


def loader_rate(situation: Situation, config: Config) -> float:
    """`loader_rates` of one configuration."""
    wanted = demand(situation, config)
    return float(loader_rates(situation, wanted, config.num_workers, config.persistent_workers))


def loop_rate(situation: Situation, config: Config, loader_samples_per_second: float) -> float:
    """`loop_rates` of one configuration."""
    return float(loop_rates(situation, demand(situation, config), config.num_workers, loader_samples_per_second))


def filling_rates(situation: Situation, config: Config, workers: Any) -> Any:
    """Samples per second of the training loop in the first epoch, which fills the store of `config`.

    Workers start in it, however long they live. `workers` are in place of those of `config`, and may be an array.
    """
    wanted = filling_demand(situation, config)
    return loop_rates(situation, wanted, workers, loader_rates(situation, wanted, workers, False))


def filling_rate(situation: Situation, config: Config) -> float:
    """`filling_rates` of one configuration."""
    return float(filling_rates(situation, config, config.num_workers))


def over_a_training(situation: Situation, config: Config, later: Any, workers: Any) -> Any:
    """The rate of a loop over ten epochs, the first of which fills the store of `config`; without one, all are alike.

    `later` is the rate of later epochs in samples per second; `workers` as in `filling_rates`.
    """
    if config.cache is None:
        return later
    filling = np.asarray(filling_rates(situation, config, workers))
    with np.errstate(divide="ignore"):
        return EPOCHS / ((EPOCHS - 1) / np.asarray(later) + 1 / filling)


def training_rate(situation: Situation, config: Config, loader_samples_per_second: float) -> float:
    """Samples per second of the training loop over a whole training, with a loader that delivers so many in the end."""
    later = loop_rate(situation, config, loader_samples_per_second)
    return float(over_a_training(situation, config, later, config.num_workers))


def expected_rate(situation: Situation, config: Config) -> float:
    """`training_rate` with the loader that the bounds promise."""
    return training_rate(situation, config, loader_rate(situation, config))


def main_seconds_of_step(situation: Situation) -> float:
    """Seconds per sample for which the step keeps the main process' thread: all that it takes, or what it computes."""
    step = situation.step_samples_per_second
    if not step:
        return 0.0
    return 1.0 / step if situation.step_blocks else min(1.0 / step, situation.step_cpu_seconds)


def fed_rate(situation: Situation) -> float:
    """Samples per second of a loop that never waits for a batch: infinite where the step isn't known.

    That is the step rate, unless taking batches over and stepping by turns takes the main process longer.
    """
    if not situation.step_samples_per_second:
        return math.inf
    in_main = situation.cost_in_worker.main_seconds + main_seconds_of_step(situation)
    return min(situation.step_samples_per_second, 1.0 / in_main if in_main > 0 else math.inf)


def seconds_until_steady(situation: Situation, workers: Any, in_flight: Any, samples_per_second: Any) -> Any:
    """What a loader takes to start its workers, and to make all that it prefetches and a round of batches to count."""
    # Where there is no limit to the rate, or nothing is delivered at all, a round takes no time, or for ever.
    with np.errstate(divide="ignore"):
        samples = (in_flight + np.maximum(workers, 1)) * situation.samples_per_batch
        return situation.start_seconds(workers) + samples / np.asarray(samples_per_second)


def amortized(samples_per_second: Any, epoch_samples: float | None, start_seconds: Any) -> Any:
    """The rate over a real epoch that begins with `start_seconds` of waiting; unchanged for an endless epoch."""
    if epoch_samples is None:
        return samples_per_second
    return 1.0 / (1.0 / np.asarray(samples_per_second) + start_seconds / epoch_samples)


def crowd(situation: Situation, wanted: Demand, workers: Any) -> Any:
    """The share of the other cores that the rest of the workers keep busy, as each of them sees it."""
    cpus = situation.limits.cpus
    return np.clip((_computing(wanted, workers) - 1.0) / max(cpus - 1.0, 1e-9), 0.0, 1.0) if cpus > 1 else 1.0


def cores(situation: Situation, wanted: Demand, workers: Any, step_cpu_seconds: float) -> Any:
    """CPU seconds per second that the loop gets: all that the limits allow, less what other processes take."""
    allowed, competition = situation.limits.cpus, situation.competition
    if competition is None:
        return allowed
    computing = _computing(wanted, workers)
    in_main = (wanted.main_seconds + step_cpu_seconds) / max(wanted.cpu_seconds, 1e-12)
    beside = np.where(np.asarray(workers) == 0, 0.0, np.minimum(1.0, computing * in_main))
    return np.minimum(allowed, competition.left(computing + beside))


def _computing(wanted: Demand, workers: Any) -> Any:
    """The processes that compute at once, on average, at least the one that makes samples."""
    return np.maximum(1.0, np.maximum(workers, 1.0) * _share_computing(wanted))


def _share_computing(wanted: Demand) -> float:
    """The cores that a process which makes samples keeps busy while nothing holds it up, threads of its own neither."""
    seconds = min(wanted.seconds(crowd=0.0), wanted.seconds(crowd=1.0))
    return (wanted.cpu_seconds + wanted.switching_cpu_seconds) / seconds if seconds > 0 else 1.0


def _storage_bytes_per_second(situation: Situation, outstanding: Any) -> Any:
    if situation.storage is None:
        return math.inf
    return np.interp(outstanding, situation.storage.outstanding, situation.storage.bytes_per_second)


def _over(capacity: Any, wanted: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(np.asarray(wanted) > 0, np.divide(capacity, wanted), math.inf)
