"""What a configuration can deliver at most, by operational analysis, with the whole sample as one operator.

Each resource bounds the rate by its capacity over the demand of one sample (Denning and Buzen 1978; for input
pipelines Kuchnik et al., MLSys 2022). The smallest bound is the bottleneck.
"""

from __future__ import annotations

import math

from plumb.plan import Config, Prediction, SampleCost


def bounds(
    config: Config, cost: SampleCost, cores: float, step: float | None, step_cpu: float = 0.0
) -> dict[str, float]:
    """Each resource's limit in samples per second; a resource that a sample does not use has no entry.

    `cores` are CPU seconds per second. `step` is the rate at which the training step could consume, samples per
    second, None where it is not known; `step_cpu` the CPU seconds that the step itself burns per sample.
    """
    in_worker = cost.cpu_seconds + cost.wait_seconds
    limits = {"step": step or math.inf}
    if config.num_workers == 0:
        limits["main process"] = _over(1.0, in_worker)
        limits["cpu"] = _over(cores, cost.cpu_seconds + step_cpu)
    else:
        limits["workers"] = _over(config.num_workers, in_worker)
        limits["main process"] = _over(1.0, cost.main_seconds)
        limits["cpu"] = _over(cores, cost.cpu_seconds + cost.main_seconds + step_cpu)
    return {resource: limit for resource, limit in limits.items() if math.isfinite(limit)}


def predict(config: Config, cost: SampleCost, cores: float, step: float | None, step_cpu: float = 0.0) -> Prediction:
    """The rate of `config`, capped at the step rate, its bottleneck, and the share of each resource then in use."""
    limits = bounds(config, cost, cores, step, step_cpu)
    bottleneck = min(limits, key=lambda resource: limits[resource])
    rate = limits[bottleneck]
    return Prediction(rate, bottleneck, {resource: rate / limit for resource, limit in limits.items()}, limits)


def end_to_end(config: Config, loader: float, step: float | None, cpu_bound: float = math.inf) -> float:
    """The rate of the training loop, samples per second, with a loader that alone delivers `loader`.

    Without workers the loop loads and steps by turns; with them the slower of the two sets the pace, or the CPU that
    both share (`cpu_bound`).
    """
    if step is None:
        return loader
    if config.num_workers == 0:
        return 1.0 / (1.0 / loader + 1.0 / step)
    return min(loader, step, cpu_bound)


def amortized(samples_per_second: float, epoch_samples: float | None, start_seconds: float) -> float:
    """The rate over a real epoch that begins with `start_seconds` of waiting; unchanged for an endless epoch."""
    if epoch_samples is None or math.isinf(samples_per_second):
        return samples_per_second
    return epoch_samples / (epoch_samples / samples_per_second + start_seconds)


def _over(capacity: float, demand_seconds: float) -> float:
    return capacity / demand_seconds if demand_seconds > 0 else math.inf
