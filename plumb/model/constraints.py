"""Resources that a configuration takes of the host, and the limit that it would exceed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from plumb.core.config import Config
from plumb.core.units import format_bytes
from plumb.model.demand import demand
from plumb.model.inputs import ModelInputs

_FOR_EACH_LOADER = ("workers", "samples at once")
_IN_BYTES = ("memory", "shared memory", "disk")
# Without workers, a batch and its samples are made while the previous batch is in use.
_BATCHES_WITHOUT_WORKERS = 3
# Ratio of some workers' memory to that of the measured one, after a while: samples differ, memory fragments.
_WORKERS_DIFFER = 1.5
# Each thread allocates from its own arena; after a while an arena holds this multiple of what its thread needs.
_ARENAS_KEEP = 2.5
# Buffers of a worker with reused memory beyond those for its prefetched batches (`runtime/shared_buffers.py`).
_BUFFERS_BEYOND_PREFETCH = 2
# Each tensor begins on a page of its own.
_PAGE_BYTES = 4096
# File descriptors that torch holds for one worker: two queues, their pipes and the process' sentinel.
_FILES_PER_WORKER = 8
# A store in the main process: its lock, the mark of its user, and its memory.
_FILES_PER_STORE = 5


def needs(inputs: ModelInputs, config: Config, workers: Any, in_flight: Any) -> dict[str, Any]:
    """Return what `config` takes of each limited resource, by the resource's name.

    Shared memory counts as memory too, and a store's memory tier as both.

    Args:
        inputs: Costs and footprint.
        config: Configuration, except its number of workers and its prefetching.
        workers: Number of workers, or an array of numbers.
        in_flight: Number of prefetched batches, or an array of the same shape.

    """
    footprint = inputs.footprint
    per_sample = inputs.cost_in_worker.output_bytes
    share = demand(inputs, config).output_bytes / per_sample if config.deferred and per_sample else 1.0
    beyond = _BUFFERS_BEYOND_PREFETCH if config.allocator_reuse else 1
    batches = np.where(workers > 0, in_flight + beyond * workers, 0)
    stored = config.cache.bytes if config.cache else 0
    shared = batches * (footprint.batch_bytes * share + _PAGE_BYTES * footprint.tensors_per_batch)
    # Deferred operators run in the main process, on the batch in use.
    memory = footprint.main_bytes + (share != 1.0) * footprint.batch_bytes
    memory = (
        memory + workers * _WORKERS_DIFFER * footprint.worker_bytes + np.where(workers > 0, footprint.parted_bytes, 0)
    )
    memory = memory + np.maximum(workers, 1) * _ARENAS_KEEP * _bytes_of_threads(inputs, config)
    making = max(_BATCHES_WITHOUT_WORKERS * footprint.batch_bytes * share, footprint.making_bytes)
    memory = memory + np.where(workers > 0, 0, making)
    if config.allocator_reuse and inputs.allocator:
        memory = memory + inputs.allocator.kept_bytes
    if config.cache and config.cache.tier == "memory":
        shared = shared + stored
    return {
        "memory": memory + shared,
        "shared memory": shared,
        "open files": footprint.open_files
        + workers * _FILES_PER_WORKER
        + batches * footprint.tensors_per_batch
        + np.where(workers > 0, 0, config.fetch_threads)
        + (_FILES_PER_STORE if config.cache else 0),
        "processes": workers * config.fetch_threads,
        "workers": workers,
        "samples at once": np.maximum(workers, 1) * config.fetch_threads,
        "disk": stored if config.cache and config.cache.tier == "disk" else 0,
    }


def _bytes_of_threads(inputs: ModelInputs, config: Config) -> float:
    """Return the bytes that the fetch threads of one process need at the same time."""
    if config.fetch_threads == 1:
        return 0.0
    wanted = config.fetch_threads, config.fetch_until
    each = next((cost.thread_bytes for cost in inputs.threads if (cost.threads, cost.until) == wanted), 0.0)
    return each * config.fetch_threads


def allowed(inputs: ModelInputs) -> dict[str, float]:
    """Return the host's limit for each resource."""
    limits = inputs.limits
    return {
        "memory": limits.memory_bytes,
        "shared memory": limits.shm_bytes,
        "open files": limits.open_files,
        "processes": limits.processes,
        "workers": limits.max_workers,
        "samples at once": min(inputs.samples_at_once, limits.max_connections),
        "disk": limits.disk_bytes,
    }


def broken_limit(config: Config, inputs: ModelInputs) -> str | None:
    """Return the limit that `config` would exceed, as text, or None if it fits."""
    most = allowed(inputs)
    for name, needed in needs(inputs, config, config.num_workers, config.batches_in_flight).items():
        if needed > most[name]:
            words = format_bytes if name in _IN_BYTES else "{:,.0f}".format
            return f"needs {words(float(needed))} of {name}, {words(most[name])} are allowed"
    return None


def trial_bytes(inputs: ModelInputs, config: Config) -> float:
    """Return the memory that a trial of `config` takes beyond the script; its store exists before the trial."""
    memory = needs(inputs, config, config.num_workers, config.batches_in_flight)["memory"]
    stored = config.cache.bytes if config.cache and config.cache.tier == "memory" else 0
    # Trials are too short to include the growth over an epoch.
    growth = config.num_workers * _WORKERS_DIFFER * inputs.footprint.worker_growth_bytes
    return float(memory) - inputs.footprint.main_bytes - stored - growth


def fit_together(configs: Sequence[Config], inputs: ModelInputs) -> bool:
    """Return whether loaders with all these configurations fit at the same time; the script itself counts once."""
    scripts = {"memory": inputs.footprint.main_bytes, "open files": inputs.footprint.open_files}
    each = [needs(inputs, config, config.num_workers, config.batches_in_flight) for config in configs]
    return all(
        sum(float(need[name]) for need in each) - (len(each) - 1) * scripts.get(name, 0) <= most
        for name, most in allowed(inputs).items()
        if name not in _FOR_EACH_LOADER
    )
