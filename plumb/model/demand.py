"""What one sample asks of each resource under a configuration: the measured costs, less what its knobs save."""

from __future__ import annotations

from dataclasses import dataclass, replace

from plumb.config import CacheChoice, Config
from plumb.model.situation import CutCost, DeferralCost, Situation, ThreadsCost

# Whatever is saved, a sample is asked for by a call, and its bytes are copied once, no faster than memory is.
_LEAST_CALL_SECONDS, _LEAST_COPY_SECONDS_PER_BYTE = 1e-6, 1e-10

# What a worker spends at most on fresh memory for its batches, in terms of what it takes a process that is alone, and
# on handing over a tensor's memory, in terms of what the main process spends on asking.
_WORKERS_PART = 2.0


@dataclass(frozen=True)
class Demand:
    """Seconds and bytes of one sample, when nothing else runs on the host.

    The process that makes a sample spends `cpu_seconds`, which torch's threads make `torch_speedup` times shorter by
    the clock, and `wait_seconds`. Of their sum, `threaded_seconds` are spent by `fetch_threads`, which takes
    `time_factor` times as long, and `switching_cpu_seconds` more CPU. `main_seconds` are CPU seconds of the main
    process once the sample is made. `read_bytes` come from storage, `output_bytes` are handed over.
    """

    cpu_seconds: float
    wait_seconds: float
    main_seconds: float
    read_bytes: float
    output_bytes: float
    threaded_seconds: float = 0.0
    time_factor: float = 1.0
    switching_cpu_seconds: float = 0.0
    fetch_threads: int = 1
    torch_speedup: float = 1.0

    def seconds(self, slow_down: float = 1.0) -> float:
        """Time per sample of the process that makes it, with its CPU seconds longer by a factor."""
        alone = self.cpu_seconds / self.torch_speedup + self.wait_seconds
        slowed = slow_down * self.cpu_seconds / self.torch_speedup + self.wait_seconds
        if self.fetch_threads == 1 or alone == 0:
            return slowed
        by_threads = min(self.threaded_seconds, alone)
        return slowed / alone * (by_threads * self.time_factor + alone - by_threads)


def demand(situation: Situation, config: Config) -> Demand:
    """What a sample costs with `config`, once its cache holds what fits into it.

    Raises KeyError where the configuration names a cut, operators or threads that the situation has no costs of.
    """
    cost = situation.cost_in_worker if config.num_workers else situation.cost
    cpu, wait, main, output_bytes = cost.cpu_seconds, cost.wait_seconds, cost.main_seconds, cost.output_bytes
    threads = threads_of(situation, config) if config.fetch_threads > 1 else None
    threaded = max(0.0, cpu + wait - threads.serial_seconds) if threads else 0.0
    switching = (threads.cpu_factor - 1.0) * cpu * threaded / (cpu + wait) if threads and threaded else 0.0
    hit = config.cache.hit_ratio if config.cache else 0.0
    dearer = _dearer_in_worker(situation) if config.num_workers else 1.0
    if config.cache:
        cut = cut_of(situation, config.cache)
        # Beside a store, threads make only what is missing in it; the rest of a sample may draw random numbers.
        missing = (1.0 - hit) * (cut.prefix_cpu_seconds + cut.prefix_wait_seconds)
        left = min(1.0, missing / threaded) if threaded else 1.0
        threaded, switching = threaded * left, switching * left
        cpu -= hit * (cut.prefix_cpu_seconds - cut.read_seconds) * dearer
        # Waits vary more than anything: what matters is which share of them lies before the cut.
        waited = situation.cost.wait_seconds
        wait *= 1.0 - hit * (min(1.0, cut.prefix_wait_seconds / waited) if waited > 0 else 0.0)
    if config.deferred:
        deferral = deferral_of(situation, config.deferred)
        cpu -= deferral.worker_cpu_seconds * dearer
        output_bytes = max(0.0, output_bytes - deferral.bytes_saved)
        if config.num_workers:
            main -= situation.calibration.hand_over_seconds_per_byte * (cost.output_bytes - output_bytes)
        main = max(0.0, main) + deferral.main_seconds
    if config.allocator_reuse and situation.allocator:
        if not config.num_workers:
            cpu -= situation.allocator.making_seconds
        else:
            share = output_bytes / cost.output_bytes if cost.output_bytes else 1.0
            for_tensors = _seconds_for_tensors(situation)
            for_memory = _seconds_for_memory(situation, share)
            # What is deferred was most of what took fresh memory on the way to a sample.
            cpu -= 0.0 if config.deferred else situation.allocator.making_seconds
            cpu -= min(max(0.0, cost.cpu_seconds - situation.cost.cpu_seconds), _WORKERS_PART * for_memory)
            wait -= min(max(0.0, cost.wait_seconds - situation.cost.wait_seconds), for_tensors)
            main -= for_tensors + situation.calibration.hand_over_seconds_per_byte * output_bytes
            main = max(0.0, main - (situation.allocator.finishing_seconds if config.deferred else 0.0))
    return Demand(
        max(cpu, min(cost.cpu_seconds, least_cpu_seconds(output_bytes))),
        max(0.0, wait),
        max(0.0, main),
        situation.read_bytes * (1.0 - hit),
        output_bytes,
        threaded,
        threads.time_factor if threads else 1.0,
        max(0.0, switching),
        config.fetch_threads,
        situation.torch_threads_speedup if config.worker_torch_threads > 1 else 1.0,
    )


def _dearer_in_worker(situation: Situation) -> float:
    """How many times the CPU a worker spends on what a sample is made of, its new memory for the hand-over left out.

    What is saved there is saved at this price: as a difference of two costs, what is left would be as unsure as both.
    """
    alone, in_worker = situation.cost.cpu_seconds, situation.cost_in_worker.cpu_seconds
    return max(0.0, in_worker - _seconds_for_memory(situation)) / alone if alone > 0 else 1.0


def _seconds_for_memory(situation: Situation, share: float = 1.0) -> float:
    """CPU seconds per sample for new memory to hand it over in, where only a `share` of its bytes is handed over."""
    crossing = situation.allocator.crossing_seconds if situation.allocator else 0.0
    return crossing * share + _seconds_for_tensors(situation)


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
