"""Inputs of the model: costs of a sample and of every way to save some of them, the host, and the search space."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from plumb.core.config import CacheChoice, StartMethod
from plumb.core.plan import SampleCost
from plumb.host import Limits
from plumb.model.calibration import Calibration
from plumb.model.concurrency_climb import ClimbEnd, SourceCapacity
from plumb.model.cpu_contention import CpuCompetition

PREFETCH_FACTORS = (2, 4, 8)
USUAL_WORKER_BYTES = 128.0 * 2**20
"""Usual upper limit of a worker's own pages in bytes, used until one was measured."""


@dataclass(frozen=True)
class SearchSpace:
    """Values that each knob may take without changing what the script computes.

    `fetch` holds pairs of a number of threads and the cut up to which they work (None: whole samples); `deferrals`
    holds the operators to move behind collate. All workers are started by `start_method`; None keeps the script's own
    method.
    """

    num_workers: tuple[int, ...]
    prefetch_factor: tuple[int, ...] = PREFETCH_FACTORS
    persistent_workers: tuple[bool, ...] = (False, True)
    pin_memory: tuple[bool, ...] = (False,)
    worker_torch_threads: tuple[int, ...] = (1,)
    in_order: tuple[bool, ...] = (True,)
    fetch: tuple[tuple[int, str | None], ...] = ((1, None),)
    caches: tuple[CacheChoice | None, ...] = (None,)
    deferrals: tuple[tuple[str, ...], ...] = ((),)
    allocator_reuse: tuple[bool, ...] = (False,)
    start_method: StartMethod | None = None

    def plainly(self) -> SearchSpace:
        """Return the search space in torch's own arguments alone, without rewrites."""
        plain = SearchSpace(self.num_workers)
        return replace(
            self,
            worker_torch_threads=plain.worker_torch_threads,
            fetch=plain.fetch,
            caches=plain.caches,
            deferrals=plain.deferrals,
            allocator_reuse=plain.allocator_reuse,
        )


@dataclass(frozen=True)
class Footprint:
    """Memory and files that loading takes: bytes of one batch, of one worker's own pages, and of the script.

    A forked worker copies its parent's pages when it counts references in them: `worker_growth_bytes` is its growth
    over an epoch. The parent also writes to pages that its workers keep: `parted_bytes` in all, for any number of
    workers. `making_bytes` is the largest amount that making batches took in the main process.
    """

    batch_bytes: float
    tensors_per_batch: int
    worker_private_bytes: float
    main_bytes: float
    open_files: int
    worker_growth_bytes: float = 0.0
    parted_bytes: float = 0.0
    making_bytes: float = 0.0

    @property
    def worker_bytes(self) -> float:
        """Bytes of a worker's own pages at the end of an epoch."""
        return self.worker_private_bytes + self.worker_growth_bytes


@dataclass(frozen=True)
class RemainingCpuShare:
    """Remaining share of the CPU seconds that a worker spends on a plain sample.

    Collate is included, and so is new shared memory for what is sent. `reusing` is the share if both are made in reused
    memory. A share above 1 means longer than a plain sample. `alone` is the share in a main process without workers, in
    which torch uses its threads and batches with deferred operators are finished too.
    """

    plainly: float
    reusing: float
    alone: RemainingCpuShare | None = None


@dataclass(frozen=True)
class CutCost:
    """Costs and savings of a store after the operator `after`, per sample.

    `left` is the share for a sample made from a stored value, and `left_deferred` that with deferred operators too, or
    None if the two can't be combined. `wait_share` is the share of its waiting that is saved. `write_seconds` are the
    seconds to store a value, spent in the first epoch only. `outlives` is False if the store may not serve later runs,
    because what the values are made of could change unseen.
    """

    after: str
    value_bytes: float
    left: RemainingCpuShare
    wait_share: float
    write_seconds: float
    outlives: bool = True
    left_deferred: RemainingCpuShare | None = None


@dataclass(frozen=True)
class DeferralCost:
    """CPU time that moving `operators` behind collate saves the process that makes a sample and costs the main process.

    `left` is the share that remains where samples are made. `main_seconds` are spent in the main process,
    `main_seconds_reusing` if it uses reused memory. Seconds and bytes are per sample. `bytes_saved` is how much less is
    sent; it is negative if more is sent.
    """

    operators: tuple[str, ...]
    left: RemainingCpuShare
    main_seconds: float
    main_seconds_reusing: float
    bytes_saved: float


@dataclass(frozen=True)
class ThreadsCost:
    """Measured gain of making a batch's samples with `threads` threads up to the cut `until` (None: whole samples).

    They take `time_factor` times as long as one thread: 1 / threads at best, more if they wait for the interpreter's
    lock, for storage, or for the slowest sample of a batch. `crowded_time_factor` holds if other processes keep all
    cores but one busy: it is larger for samples that compute, and smaller if threads on several cores contend for the
    lock.

    Beside all of a sample's waiting, they take over `threaded_cpu_seconds` of it, without torch's own threads, and
    spend `cpu_factor` times as much. Afterwards, the worker's own thread spends `serial_seconds` per sample on the rest
    of the sample and on collate. Each thread holds at most `thread_bytes`.
    """

    threads: int
    until: str | None
    time_factor: float
    crowded_time_factor: float
    cpu_factor: float
    threaded_cpu_seconds: float
    serial_seconds: float
    thread_bytes: float = 0.0


@dataclass(frozen=True)
class AllocatorGain:
    """Savings of reused memory in a process that makes whole batches; `left_share` of their CPU seconds remain.

    This excludes a worker's savings on the memory that it sends batches in: a worker takes `worker_seconds` of CPU per
    sample, as the main process does with one torch thread (None: not measured), and `copying_seconds` to copy it to
    where it is sent from. `kept_bytes` is what the main process then keeps from the system.
    """

    left_share: float
    kept_bytes: float
    worker_seconds: float | None = None
    copying_seconds: float = 0.0


@dataclass(frozen=True)
class StorageBandwidth:
    """Bytes per second that storage delivers for each number of outstanding reads; `outstanding` ascends."""

    outstanding: tuple[float, ...]
    bytes_per_second: tuple[float, ...]


def bandwidth(source: SourceCapacity, sample_bytes: float) -> StorageBandwidth:
    """Return what a source of samples of so many bytes gives to how many reads at once."""
    return StorageBandwidth(
        tuple(map(float, source.reads)), tuple(sample_bytes * rate for rate in source.samples_per_second)
    )


@dataclass(frozen=True)
class ModelInputs:
    """All inputs of the model: the cost of a sample, the step's rate, the host, and the length of an epoch.

    - `cost` was measured in the main process; `cost_in_worker` in a worker, where caches, memory and threads differ.
    - `batch_seconds` are times of single batches; only their spread is used.
    - `read_bytes`: bytes that a sample reads from storage.
    - `step_blocks`: True if the loop blocks until a step is done, and receives no batch meanwhile.
    - `torch_threads_speedup`: how many times as fast a sample is made if torch may use more than one thread.
    - `fresh_seconds`: CPU seconds of a worker for a sample's share of untouched shared memory.
    - `start_seconds_in_main` and `start_seconds_in_worker`: seconds to start a worker, in the main process and in it.
    - `worker_overlap`: ratio of CPU to wall seconds of a worker that sends batches in fresh memory.
    - `transfer_bytes_per_second`: from the host to the device; None if there is none.
    - `pool_cpus`: number of CPUs that a library's own threads keep busy while a sample is made.
    - `competition`: CPU use of other processes; None if it wasn't measured.
    - `source`: capacity of the samples' source; None if it wasn't climbed.
    """

    cost: SampleCost
    cost_in_worker: SampleCost
    footprint: Footprint
    limits: Limits
    step_samples_per_second: float | None = None
    step_cpu_seconds: float = 0.0
    epoch_samples: float | None = None
    start_seconds_in_main: float = 0.0
    start_seconds_in_worker: float = 0.0
    samples_per_batch: float = 1.0
    batch_seconds: tuple[float, ...] = ()
    calibration: Calibration = field(default_factory=Calibration)
    dataset_samples: float | None = None
    cuts: tuple[CutCost, ...] = ()
    deferrals: tuple[DeferralCost, ...] = ()
    threads: tuple[ThreadsCost, ...] = ()
    allocator: AllocatorGain | None = None
    fresh_seconds: float = 0.0
    torch_threads_speedup: float = 1.0
    read_bytes: float = 0.0
    storage: StorageBandwidth | None = None
    transfer_bytes_per_second: float | None = None
    pool_cpus: float = 0.0
    step_blocks: bool = False
    worker_overlap: float = 1.0
    competition: CpuCompetition | None = None
    source: SourceCapacity | None = None

    def start_seconds(self, workers: Any) -> Any:
        """Return the seconds to start `workers` workers (a number or an array).

        The main process starts one after another; as many as there are cores get ready at the same time.
        """
        count = np.asarray(workers, dtype=float)
        rounds = np.where(count > 0, np.maximum(1.0, count / max(1.0, self.limits.cpus)), 0.0)
        return count * self.start_seconds_in_main + rounds * self.start_seconds_in_worker

    def with_costs_times(self, factor: float) -> ModelInputs:
        """Return the inputs in which all that a loader does for a sample takes `factor` times as long.

        The step, the start of workers and the storage stay as they are.
        """

        def times(given: Any, *names: str) -> Any:
            known = {name: getattr(given, name) for name in names}
            return replace(given, **{name: value * factor for name, value in known.items() if value is not None})

        in_sample = ("wall_seconds", "cpu_seconds", "wait_seconds", "main_seconds")
        return replace(
            self,
            cost=times(self.cost, *in_sample),
            cost_in_worker=times(self.cost_in_worker, *in_sample),
            fresh_seconds=self.fresh_seconds * factor,
            calibration=times(
                self.calibration,
                "hand_over_seconds_per_batch",
                "hand_over_seconds_per_byte",
                "crowded_cpu_seconds",
            ),
            cuts=tuple(times(cut, "write_seconds") for cut in self.cuts),
            deferrals=tuple(times(each, "main_seconds", "main_seconds_reusing") for each in self.deferrals),
            threads=tuple(times(each, "threaded_cpu_seconds", "serial_seconds") for each in self.threads),
            allocator=self.allocator and times(self.allocator, "worker_seconds", "copying_seconds"),
        )

    @property
    def samples_at_once(self) -> float:
        """Number of samples that may be made at once; infinite if nothing limits it.

        A source is given no more reads than it was seen to hold, or one step more if there was no time to climb on. If
        something else ended its climb and samples mostly compute, the cores limit the number.
        """
        source = self.source
        if source is None:
            return math.inf
        if source.is_exhausted or source.end is ClimbEnd.MOST:
            return max(1.0, source.most_reads)
        if self.cost.wait_seconds < self.cost.cpu_seconds:
            return math.inf
        return max(1.0, source.most_reads if source.end is ClimbEnd.CPU else 2.0 * source.good_reads)
