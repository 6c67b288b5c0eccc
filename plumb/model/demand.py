"""What one sample asks of each resource under a configuration: the measured costs, less what its knobs save."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from plumb.config import WHOLE_BATCHES, CacheChoice, Config
from plumb.model.situation import AllocatorGain, CutCost, DeferralCost, Left, Situation, ThreadsCost

# Whatever is saved, a sample is asked for by a call, and its bytes are copied once, no faster than memory is.
_LEAST_CALL_SECONDS, _LEAST_COPY_SECONDS_PER_BYTE = 1e-6, 1e-10

# Torch's own threads are taken to make samples faster where one alone takes so many times as long.
_TORCH_THREADS_MATTER = 1.2

# What a worker spends at most on handing over a tensor's memory, in terms of what the main process spends on asking.
_WORKERS_PART = 2.0


@dataclass(frozen=True)
class Demand:
    """Seconds and bytes of one sample, when nothing else runs on the host.

    The process that makes a sample spends `cpu_seconds`, which threads of torch's, and those that hand batches over,
    make `speedup` times shorter by the clock, and `wait_seconds`. Of their sum, `threaded_seconds` are spent by
    `fetch_threads`, which takes `time_factor` times as long, `crowded_time_factor` times where other processes keep all
    cores but one busy. They spend `switching_cpu_seconds` more CPU, or less, where the core of one that waits is idle
    and has to be woken up. `main_seconds` are CPU seconds of the main process once the sample is made. `read_bytes`
    come from storage, `output_bytes` are handed over.
    """

    cpu_seconds: float
    wait_seconds: float
    main_seconds: float
    read_bytes: float
    output_bytes: float
    threaded_seconds: float = 0.0
    time_factor: float = 1.0
    crowded_time_factor: float = 1.0
    switching_cpu_seconds: float = 0.0
    fetch_threads: int = 1
    speedup: float = 1.0

    def seconds(self, slow_down: Any = 1.0, crowd: Any = 0.0) -> Any:
        """Time per sample of the process that makes it, with its CPU seconds longer by a factor.

        `crowd` is the share of the other cores that other processes keep busy.
        """
        alone = self.cpu_seconds / self.speedup + self.wait_seconds
        slowed = slow_down * self.cpu_seconds / self.speedup + self.wait_seconds
        if self.fetch_threads == 1 or alone == 0:
            return slowed
        by_threads = min(self.threaded_seconds, alone)
        factor = self.time_factor + crowd * (self.crowded_time_factor - self.time_factor)
        return slowed / alone * (by_threads * factor + alone - by_threads)


def demand(situation: Situation, config: Config) -> Demand:
    """What a sample costs with `config`, once its cache holds what fits into it.

    Raises KeyError where the configuration names a cut, operators or threads that the situation has no costs of.
    """
    threads = threads_of(situation, config) if config.fetch_threads > 1 else None
    if threads and not config.num_workers:
        situation = _without_torch_threads(situation, threads)
    cost = situation.cost_in_worker if config.num_workers else situation.cost
    threaded = switching = 0.0
    if threads:
        threaded = min(threads.threaded_cpu_seconds, cost.cpu_seconds) + cost.wait_seconds
        switching = max(0.0, threads.cpu_factor - 1.0) * min(threads.threaded_cpu_seconds, cost.cpu_seconds)
    left_share = _left_share(situation, config)
    # What a worker waits beyond what the main process does, it waits for a core: with less to do, it waits less.
    wait = min(cost.wait_seconds, situation.cost.wait_seconds)
    queued, hit, output_bytes = cost.wait_seconds - wait, 0.0, cost.output_bytes
    if config.cache:
        hit, cut = config.cache.hit_ratio, cut_of(situation, config.cache)
        # Beside a store, threads make only what is missing in it; the rest of a sample may draw random numbers.
        saved = max(0.0, 1.0 - cut.left.plainly) * cost.cpu_seconds + cut.wait_share * cost.wait_seconds
        left = min(1.0, (1.0 - hit) * saved / threaded) if threaded else 1.0
        threaded, switching = threaded * left, switching * left
        wait *= 1.0 - hit * cut.wait_share
    if config.deferred:
        output_bytes = max(0.0, output_bytes - deferral_of(situation, config.deferred).bytes_saved)
        # Rows in memory wait for nothing but a core: with less to do, they wait less.
        wait *= left_share if config.reads_whole_batches else 1.0
    if config.num_workers and _reuse(situation, config) is not None:
        queued = max(0.0, queued - _seconds_for_tensors(situation))
    least = min(cost.cpu_seconds, least_cpu_seconds(output_bytes))
    making = max(_making_seconds(situation, config, left_share, output_bytes), least)
    if threads and threads.cpu_factor < 1.0 and wait > situation.cost.cpu_seconds:
        # What no longer waits was not woken up, either.
        switching = (threads.cpu_factor - 1.0) * making * wait / situation.cost.wait_seconds
    return Demand(
        making,
        wait + queued * min(1.0, left_share),
        _main_seconds(situation, config, output_bytes),
        situation.read_bytes * (1.0 - hit),
        output_bytes,
        threaded,
        threads.time_factor if threads else 1.0,
        threads.crowded_time_factor if threads else 1.0,
        switching,
        config.fetch_threads,
        _speedup(situation, config),
    )


def _speedup(situation: Situation, config: Config) -> float:
    overlap = situation.worker_overlap if config.num_workers and _reuse(situation, config) is None else 1.0
    return overlap * (situation.torch_threads_speedup if config.worker_torch_threads > 1 else 1.0)


def _without_torch_threads(situation: Situation, threads: ThreadsCost) -> Situation:
    """The situation of a main process that has threads of plumb's make samples, in place of torch's own."""
    cost, computing = situation.cost, threads.threaded_cpu_seconds + threads.serial_seconds
    if computing <= _TORCH_THREADS_MATTER * cost.cpu_seconds:
        return situation
    return replace(situation, cost=replace(cost, wall_seconds=computing + cost.wait_seconds, cpu_seconds=computing))


def _reuse(situation: Situation, config: Config) -> AllocatorGain | None:
    """What reused memory saves where the configuration has it."""
    return situation.allocator if config.allocator_reuse else None


def _making_seconds(situation: Situation, config: Config, left: float, output_bytes: float) -> float:
    """CPU seconds of the process that makes a sample, of which the share `left` is left.

    What is saved are shares of what a plain sample costs there, new memory for the hand-over and all: as differences
    of two costs, what is left would be as unsure as both.
    """
    plain, allocator = situation.cost.cpu_seconds, _reuse(situation, config)
    if not config.num_workers:
        return plain * left * (allocator.left_share if allocator else 1.0)
    in_worker, for_tensors = situation.cost_in_worker.cpu_seconds, _seconds_for_tensors(situation)
    if allocator is None:
        return max(0.0, in_worker - for_tensors) * left + for_tensors
    handed = output_bytes / situation.cost.output_bytes if situation.cost.output_bytes else 1.0
    without = allocator.worker_seconds
    if without is None:
        without = max(min(plain, in_worker), in_worker - situation.fresh_seconds - _WORKERS_PART * for_tensors)
    return min(in_worker, without * left + allocator.copying_seconds * handed + _handing_seconds(situation))


def _handing_seconds(situation: Situation) -> float:
    """CPU seconds per sample of a worker, to hand over a batch that lies in reused memory."""
    per_batch = situation.calibration.hand_over_seconds_per_batch
    return per_batch / situation.samples_per_batch - _seconds_for_tensors(situation)


def cheaper_in_reused_memory(situation: Situation, cpu_seconds: float) -> Situation:
    """The situation in which a worker takes no more than `cpu_seconds` to make a plain sample in reused memory.

    Raises ValueError where there is no reused memory.
    """
    if situation.allocator is None:
        raise ValueError("there is no reused memory")
    left = max(0.0, cpu_seconds - situation.allocator.copying_seconds - _handing_seconds(situation))
    return replace(situation, allocator=replace(situation.allocator, worker_seconds=left))


def _left_share(situation: Situation, config: Config) -> float:
    """What is left of the CPU seconds of a sample that is made in memory of the same kind, and else plainly."""

    def share(left: Left) -> float:
        left = _alone(left, config) or left
        return left.plainly if _reuse(situation, config) is None else left.reusing

    left = share(deferral_of(situation, config.deferred).left) if config.deferred else 1.0
    if config.cache is None:
        return left
    cut = cut_of(situation, config.cache)
    of_hits = cut.left_deferred if config.deferred and cut.left_deferred else cut.left
    return left + config.cache.hit_ratio * (share(of_hits) - left)


def _alone(left: Left, config: Config) -> Left | None:
    """What is left for a main process that makes and finishes batches itself, on torch's threads, if that is known."""
    return None if config.num_workers else left.alone


def _main_seconds(situation: Situation, config: Config, output_bytes: float) -> float:
    """CPU seconds of the main process, once a sample is made."""
    reuses, main = _reuse(situation, config) is not None, 0.0
    if config.num_workers:
        cost = situation.cost_in_worker
        dropped = output_bytes - cost.output_bytes if not reuses else -cost.output_bytes
        main = cost.main_seconds + situation.calibration.hand_over_seconds_per_byte * dropped
        main = max(0.0, main - (_seconds_for_tensors(situation) if reuses else 0.0))
    deferral = deferral_of(situation, config.deferred) if config.deferred else None
    if deferral and _alone(deferral.left, config) is None:
        main += deferral.main_seconds_reusing if reuses else deferral.main_seconds
    return main


def _seconds_for_tensors(situation: Situation) -> float:
    """CPU seconds per sample of the main process, to ask a worker for the memory of each tensor by itself.

    All else that a batch costs is taken to be as much as one tensor.
    """
    tensors = situation.footprint.tensors_per_batch
    per_batch = situation.calibration.hand_over_seconds_per_batch * tensors / (tensors + 1)
    return per_batch / situation.samples_per_batch


def filling_demand(situation: Situation, config: Config) -> Demand:
    """What a sample costs with `config` in the first epoch, which finds nothing stored and stores what fits."""
    plain = demand(situation, replace(config, cache=None))
    if config.cache is None:
        return plain
    writing = config.cache.hit_ratio * cut_of(situation, config.cache).write_seconds
    return replace(plain, cpu_seconds=plain.cpu_seconds + writing)


def least_cpu_seconds(output_bytes: float) -> float:
    """What a sample of so many bytes costs the process that makes it, whatever is saved."""
    return _LEAST_CALL_SECONDS + _LEAST_COPY_SECONDS_PER_BYTE * output_bytes


def go_together(
    situation: Situation, cache: CacheChoice | None, deferred: tuple[str, ...], fetch_threads: int = 1
) -> bool:
    """Whether these operators can be deferred where samples are made of what that cache holds, if both are asked for.

    What is read by whole batches is neither stored nor made by threads.

    Raises KeyError where the situation has no costs of the cut.
    """
    if deferred == WHOLE_BATCHES:
        return cache is None and fetch_threads == 1
    return cache is None or not deferred or cut_of(situation, cache).left_deferred is not None


def cut_of(situation: Situation, cache: CacheChoice) -> CutCost:
    """The costs of the cut that a cache stores. Raises KeyError where there are none."""
    return {cut.after: cut for cut in situation.cuts}[cache.after]


def deferral_of(situation: Situation, operators: tuple[str, ...]) -> DeferralCost:
    """The costs of moving these operators behind collate. Raises KeyError where there are none."""
    return {deferral.operators: deferral for deferral in situation.deferrals}[operators]


def threads_of(situation: Situation, config: Config) -> ThreadsCost:
    """The costs of the fetch threads that a configuration has. Raises KeyError where there are none."""
    known = {(threads.threads, threads.until): threads for threads in situation.threads}
    return known[config.fetch_threads, config.fetch_until]
