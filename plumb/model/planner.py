"""Every configuration worth a thought, the limits it would break, and the order in which to try the rest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from plumb.host import Limits
from plumb.model import operational
from plumb.plan import Config, Prediction, SampleCost

PREFETCH_FACTORS = (2, 4, 8)
# Predictions this close are equal: among them the cheapest configuration comes first.
_EQUAL = 0.01
_WORKERS_AT_MOST = 64
# File descriptors that torch holds for one worker: two queues, their pipes and the process' sentinel.
_FILES_PER_WORKER = 8


@dataclass(frozen=True)
class Freedom:
    """What may be changed without changing what the script means."""

    num_workers: tuple[int, ...]
    prefetch_factor: tuple[int, ...] = PREFETCH_FACTORS
    persistent_workers: tuple[bool, ...] = (False, True)
    pin_memory: tuple[bool, ...] = (False,)
    worker_torch_threads: tuple[int, ...] = (1,)
    in_order: tuple[bool, ...] = (True,)


@dataclass(frozen=True)
class Footprint:
    """What loading takes of the host: bytes of one batch, of one worker's own pages, and of the script itself."""

    batch_bytes: float
    tensors_per_batch: int
    worker_private_bytes: float
    main_bytes: float
    open_files: int


@dataclass(frozen=True)
class Situation:
    """All that the model knows: the cost of a sample, the pace of the step, the host, and the length of an epoch.

    `cost` was measured in the main process; `cost_in_worker` in a worker, where caches, memory and threads differ.
    """

    cost: SampleCost
    cost_in_worker: SampleCost
    footprint: Footprint
    limits: Limits
    step_samples_per_second: float | None = None
    step_cpu_seconds: float = 0.0
    epoch_samples: float | None = None
    start_seconds_per_worker: float = 0.0

    def predict(self, config: Config) -> Prediction:
        """The model's word on `config`."""
        cost = self.cost_in_worker if config.num_workers else self.cost
        return operational.predict(config, cost, self.limits.cpus, self.step_samples_per_second, self.step_cpu_seconds)

    def loader_rate(self, config: Config) -> float:
        """Samples per second that the loader alone should deliver, each epoch's start of workers included."""
        limits = self.predict(config).bounds
        steady = min((limit for resource, limit in limits.items() if resource != "step"), default=math.inf)
        start = 0.0 if config.persistent_workers else config.num_workers * self.start_seconds_per_worker
        return operational.amortized(steady, self.epoch_samples, start)

    def loop_rate(self, config: Config, loader_rate: float) -> float:
        """Samples per second of the training loop with a loader that delivers `loader_rate`."""
        cpu = self.predict(config).bounds.get("cpu", math.inf)
        return operational.end_to_end(config, loader_rate, self.step_samples_per_second, cpu)


def worker_counts(cost: SampleCost, limits: Limits, step: float | None) -> tuple[int, ...]:
    """The worker counts to consider: past the cores only as far as waiting samples leave the CPU idle.

    A CPU quota limits CPU seconds, not waits, so a source that waits may want many more workers than cores.
    """
    in_worker = cost.cpu_seconds + cost.wait_seconds
    target = min(limits.cpus / max(cost.cpu_seconds + cost.main_seconds, 1e-9), step or math.inf)
    for_the_waits = math.ceil(target * in_worker) if cost.wait_seconds > cost.cpu_seconds else 0
    most = max(math.ceil(limits.cpus) + 2, for_the_waits)
    return tuple(range(int(min(most, _WORKERS_AT_MOST, limits.max_workers)) + 1))


def configurations(freedom: Freedom) -> Iterator[Config]:
    """Every distinct configuration that `freedom` allows."""
    for workers, pin, threads in itertools.product(
        freedom.num_workers, freedom.pin_memory, freedom.worker_torch_threads
    ):
        if workers == 0:
            yield Config(pin_memory=pin)
            continue
        for prefetch, persistent, in_order in itertools.product(
            freedom.prefetch_factor, freedom.persistent_workers, freedom.in_order
        ):
            yield Config(workers, prefetch, persistent, pin, worker_torch_threads=threads, in_order=in_order)


def broken_limit(config: Config, footprint: Footprint, limits: Limits) -> str | None:
    """The limit that `config` would exceed, in words, or None where it fits."""
    in_flight = config.batches_in_flight + config.num_workers
    shared = in_flight * footprint.batch_bytes if config.num_workers else 0.0
    memory = footprint.main_bytes + config.num_workers * footprint.worker_private_bytes + shared
    files = footprint.open_files + config.num_workers * _FILES_PER_WORKER + in_flight * footprint.tensors_per_batch
    for name, needed, allowed in (
        ("memory", memory, limits.memory_bytes),
        ("shared memory", shared, limits.shm_bytes),
        ("open files", files, limits.open_files),
        ("processes", config.num_workers, limits.processes),
        ("workers", config.num_workers, limits.max_workers),
    ):
        if needed > allowed:
            return f"needs {needed:,.0f} of {name}, {allowed:,.0f} are allowed"
    return None


def rank(configs: Iterable[Config], situation: Situation) -> list[Config]:
    """The feasible configurations, the best predicted loop first; among equals the cheapest.

    Equal are predictions within one percent of each other: they differ by less than can be measured.
    """
    feasible = [c for c in configs if broken_limit(c, situation.footprint, situation.limits) is None]
    predicted = {config: situation.loop_rate(config, situation.loader_rate(config)) for config in feasible}

    def order(config: Config) -> tuple[float, tuple[int, int, bool, bool, int]]:
        return -round(math.log(predicted[config]) / _EQUAL), cost_order(config)

    return sorted(feasible, key=order)


def cost_order(config: Config) -> tuple[int, int, bool, bool, int]:
    """Sorts configurations by what they take of the host: processes, then memory."""
    return (
        config.num_workers,
        config.batches_in_flight,
        config.persistent_workers,
        config.pin_memory,
        config.worker_torch_threads,
    )
