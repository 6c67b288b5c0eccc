"""Demand of one sample on each resource under a configuration: the measured costs less what its rewrites save."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from plumb.core.config import WHOLE_BATCHES, CacheChoice, Config
from plumb.model.inputs import AllocatorGain, CutCost, DeferralCost, ModelInputs, RemainingCpuShare, ThreadsCost

# Lower limit of any saving: a sample takes a call, and its bytes are copied once, at most at memory bandwidth.
_LEAST_CALL_SECONDS, _LEAST_COPY_SECONDS_PER_BYTE = 1e-6, 1e-10

# Torch's threads are taken to speed up samples if a single thread takes this many times as long.
_TORCH_THREADS_MATTER = 1.2

# Largest ratio of a worker's CPU time to send a tensor's memory to the main process's time to request it.
_WORKERS_PART = 2.0


@dataclass(frozen=True)
class Demand:
    """Seconds and bytes of one sample when nothing else runs on the host.

    The process that makes a sample spends `cpu_seconds`, whose wall time is `speedup` times shorter thanks to torch's
    threads and to threads that send batches, and waits `wait_seconds`. Of their sum, `threaded_seconds` are divided
    between `fetch_threads` threads, which takes `time_factor` times as long as in one thread (`crowded_time_factor`
    times if other processes keep all cores but one busy). The threads spend `switching_cpu_seconds` more CPU; it is
    negative if a single waiting thread costs more, because its idle core has to be woken up. `main_seconds` are CPU
    seconds of the main process after the sample is made. `read_bytes` are read from storage, `output_bytes` are sent to
    the main process.
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
        """Return the wall seconds per sample in the process that makes it.

        Args:
            slow_down: Factor on the CPU seconds.
            crowd: Share of the other cores that other processes keep busy, from 0 to 1.

        """
        alone = self.cpu_seconds / self.speedup + self.wait_seconds
        slowed = slow_down * self.cpu_seconds / self.speedup + self.wait_seconds
        if self.fetch_threads == 1 or alone == 0:
            return slowed
        by_threads = min(self.threaded_seconds, alone)
        factor = self.time_factor + crowd * (self.crowded_time_factor - self.time_factor)
        return slowed / alone * (by_threads * factor + alone - by_threads)


def demand(inputs: ModelInputs, config: Config) -> Demand:
    """Return the demand of a sample with `config`, once its cache holds what fits into it.

    Raises:
        KeyError: The model inputs have no costs of a cut, operators or threads that the configuration names.

    """
    threads = threads_of(inputs, config) if config.fetch_threads > 1 else None
    if threads and not config.num_workers:
        inputs = _without_torch_threads(inputs, threads)
    cost = inputs.cost_in_worker if config.num_workers else inputs.cost
    threaded = switching = 0.0
    if threads:
        threaded = min(threads.threaded_cpu_seconds, cost.cpu_seconds) + cost.wait_seconds
        switching = max(0.0, threads.cpu_factor - 1.0) * min(threads.threaded_cpu_seconds, cost.cpu_seconds)
    left_share = _left_share(inputs, config)
    # A worker's waiting beyond the main process's is queueing for a core, which shrinks when there is less to do.
    wait = min(cost.wait_seconds, inputs.cost.wait_seconds)
    queued, hit, output_bytes = cost.wait_seconds - wait, 0.0, cost.output_bytes
    if config.cache:
        hit, cut = config.cache.hit_ratio, cut_of(inputs, config.cache)
        # With a store, threads make only the missing samples; the operators after the cut may draw random numbers.
        saved = max(0.0, 1.0 - cut.left.plainly) * cost.cpu_seconds + cut.wait_share * cost.wait_seconds
        left = min(1.0, (1.0 - hit) * saved / threaded) if threaded else 1.0
        threaded, switching = threaded * left, switching * left
        wait *= 1.0 - hit * cut.wait_share
    if config.deferred:
        output_bytes = max(0.0, output_bytes - deferral_of(inputs, config.deferred).bytes_saved)
        # Rows in memory only queue for a core, and that shrinks when there is less to do.
        wait *= left_share if config.reads_whole_batches else 1.0
    if config.num_workers and _reuse(inputs, config) is not None:
        queued = max(0.0, queued - _seconds_for_tensors(inputs))
    least = min(cost.cpu_seconds, least_cpu_seconds(output_bytes))
    making = max(_making_seconds(inputs, config, left_share, output_bytes), least)
    if threads and threads.cpu_factor < 1.0 and wait > inputs.cost.cpu_seconds:
        # The part that no longer waits needs no wake-up, and saves none.
        switching = (threads.cpu_factor - 1.0) * making * wait / inputs.cost.wait_seconds
    return Demand(
        making,
        wait + queued * min(1.0, left_share),
        _main_seconds(inputs, config, output_bytes),
        inputs.read_bytes * (1.0 - hit),
        output_bytes,
        threaded,
        threads.time_factor if threads else 1.0,
        threads.crowded_time_factor if threads else 1.0,
        switching,
        config.fetch_threads,
        _speedup(inputs, config),
    )


def _speedup(inputs: ModelInputs, config: Config) -> float:
    overlap = inputs.worker_overlap if config.num_workers and _reuse(inputs, config) is None else 1.0
    return overlap * (inputs.torch_threads_speedup if config.worker_torch_threads > 1 else 1.0)


def _without_torch_threads(inputs: ModelInputs, threads: ThreadsCost) -> ModelInputs:
    """Return the model inputs of a main process in which plumb's threads make samples instead of torch's threads."""
    cost, computing = inputs.cost, threads.threaded_cpu_seconds + threads.serial_seconds
    if computing <= _TORCH_THREADS_MATTER * cost.cpu_seconds:
        return inputs
    return replace(inputs, cost=replace(cost, wall_seconds=computing + cost.wait_seconds, cpu_seconds=computing))


def _reuse(inputs: ModelInputs, config: Config) -> AllocatorGain | None:
    """Return the savings of reused memory if the configuration uses it, else None."""
    return inputs.allocator if config.allocator_reuse else None


def _making_seconds(inputs: ModelInputs, config: Config, left: float, output_bytes: float) -> float:
    """Return the CPU seconds of the process that makes a sample, of which the share `left` remains.

    Savings are shares of a plain sample's cost there, including new memory for the handover. Subtracting two measured
    costs instead would add up the uncertainty of both.
    """
    plain, allocator = inputs.cost.cpu_seconds, _reuse(inputs, config)
    if not config.num_workers:
        return plain * left * (allocator.left_share if allocator else 1.0)
    in_worker, for_tensors = inputs.cost_in_worker.cpu_seconds, _seconds_for_tensors(inputs)
    if allocator is None:
        return max(0.0, in_worker - for_tensors) * left + for_tensors
    handed = output_bytes / inputs.cost.output_bytes if inputs.cost.output_bytes else 1.0
    without = allocator.worker_seconds
    if without is None:
        without = max(min(plain, in_worker), in_worker - inputs.fresh_seconds - _WORKERS_PART * for_tensors)
    return min(in_worker, without * left + allocator.copying_seconds * handed + _handing_seconds(inputs))


def _handing_seconds(inputs: ModelInputs) -> float:
    """Return a worker's CPU seconds per sample to send a batch that lies in reused memory."""
    per_batch = inputs.calibration.hand_over_seconds_per_batch
    return per_batch / inputs.samples_per_batch - _seconds_for_tensors(inputs)


def cheaper_in_reused_memory(inputs: ModelInputs, cpu_seconds: float) -> ModelInputs:
    """Return the model inputs in which a worker needs only `cpu_seconds` for a plain sample in reused memory.

    Raises:
        ValueError: The model inputs have no reused memory.

    """
    if inputs.allocator is None:
        raise ValueError("there is no reused memory")
    left = max(0.0, cpu_seconds - inputs.allocator.copying_seconds - _handing_seconds(inputs))
    return replace(inputs, allocator=replace(inputs.allocator, worker_seconds=left))


def _left_share(inputs: ModelInputs, config: Config) -> float:
    """Return the remaining share of a sample's CPU seconds, for the kind of memory that the configuration uses."""

    def share(left: RemainingCpuShare) -> float:
        left = _alone(left, config) or left
        return left.plainly if _reuse(inputs, config) is None else left.reusing

    left = share(deferral_of(inputs, config.deferred).left) if config.deferred else 1.0
    if config.cache is None:
        return left
    cut = cut_of(inputs, config.cache)
    of_hits = cut.left_deferred if config.deferred and cut.left_deferred else cut.left
    return left + config.cache.hit_ratio * (share(of_hits) - left)


def _alone(left: RemainingCpuShare, config: Config) -> RemainingCpuShare | None:
    """Return the share for a main process that makes and finishes batches with torch's threads; None if unknown."""
    return None if config.num_workers else left.alone


def _main_seconds(inputs: ModelInputs, config: Config, output_bytes: float) -> float:
    """Return the main process's CPU seconds per sample after the sample is made."""
    reuses, main = _reuse(inputs, config) is not None, 0.0
    if config.num_workers:
        cost = inputs.cost_in_worker
        dropped = output_bytes - cost.output_bytes if not reuses else -cost.output_bytes
        main = cost.main_seconds + inputs.calibration.hand_over_seconds_per_byte * dropped
        main = max(0.0, main - (_seconds_for_tensors(inputs) if reuses else 0.0))
    deferral = deferral_of(inputs, config.deferred) if config.deferred else None
    if deferral and _alone(deferral.left, config) is None:
        main += deferral.main_seconds_reusing if reuses else deferral.main_seconds
    return main


def _seconds_for_tensors(inputs: ModelInputs) -> float:
    """Return the main process's CPU seconds per sample to request each tensor's memory from a worker.

    A batch's other costs are taken to equal that of one tensor.
    """
    tensors = inputs.footprint.tensors_per_batch
    per_batch = inputs.calibration.hand_over_seconds_per_batch * tensors / (tensors + 1)
    return per_batch / inputs.samples_per_batch


def filling_demand(inputs: ModelInputs, config: Config) -> Demand:
    """Return the demand of a sample in the first epoch, which finds an empty store and stores what fits."""
    plain = demand(inputs, replace(config, cache=None))
    if config.cache is None:
        return plain
    writing = config.cache.hit_ratio * cut_of(inputs, config.cache).write_seconds
    return replace(plain, cpu_seconds=plain.cpu_seconds + writing)


def least_cpu_seconds(output_bytes: float) -> float:
    """Return the CPU seconds that a sample of `output_bytes` takes at least, whatever is saved."""
    return _LEAST_CALL_SECONDS + _LEAST_COPY_SECONDS_PER_BYTE * output_bytes


def go_together(
    inputs: ModelInputs, cache: CacheChoice | None, deferred: tuple[str, ...], fetch_threads: int = 1
) -> bool:
    """Return whether a configuration may combine this cache, these deferred operators and these fetch threads.

    Datasets read in whole batches are neither stored nor read by threads.

    Args:
        inputs: Costs of the cuts.
        cache: Store, or None.
        deferred: Operators moved behind collate, or `WHOLE_BATCHES`.
        fetch_threads: Number of fetch threads.

    Raises:
        KeyError: The model inputs have no costs of the cut.

    """
    if deferred == WHOLE_BATCHES:
        return cache is None and fetch_threads == 1
    return cache is None or not deferred or cut_of(inputs, cache).left_deferred is not None


def cut_of(inputs: ModelInputs, cache: CacheChoice) -> CutCost:
    """Return the costs of the cut that a cache stores. Raise KeyError if there are none."""
    return {cut.after: cut for cut in inputs.cuts}[cache.after]


def deferral_of(inputs: ModelInputs, operators: tuple[str, ...]) -> DeferralCost:
    """Return the costs of moving these operators behind collate. Raise KeyError if there are none."""
    return {deferral.operators: deferral for deferral in inputs.deferrals}[operators]


def threads_of(inputs: ModelInputs, config: Config) -> ThreadsCost:
    """Return the costs of a configuration's fetch threads. Raise KeyError if there are none."""
    known = {(threads.threads, threads.until): threads for threads in inputs.threads}
    return known[config.fetch_threads, config.fetch_until]
