"""What the model is told: the costs of a sample and of every way to save some of them, the host, and the freedom."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from plumb.config import CacheChoice, StartMethod
from plumb.host import Limits
from plumb.model.calibration import Calibration
from plumb.model.competition import Competition
from plumb.plan import SampleCost

PREFETCH_FACTORS = (2, 4, 8)
USUAL_WORKER_BYTES = 128.0 * 2**20
"""What a worker's own pages take at the most, as a rule, where none was seen yet."""

# With so many times the time of fewer threads, it is not for the interpreter's lock that more of them wait.
_COLLAPSED = 2.0


@dataclass(frozen=True)
class Freedom:
    """What may be changed without changing what the script means: for each knob, all values that it may have.

    `fetch` holds pairs of threads and of the cut up to which they work, None for whole samples; `deferrals` the
    operators to move behind collate. All workers are started by `start_method`, None for the script's own way.
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

    def plainly(self) -> Freedom:
        """The same, as far as torch's own arguments go."""
        plain = Freedom(self.num_workers)
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
    """What loading takes of the host: bytes of one batch, of one worker's own pages, and of the script itself.

    A forked worker makes its parent's pages its own by counting references in them: `worker_growth_bytes` is by how
    much it grows in an epoch. The parent, too, writes to pages that its workers keep as they were: `parted_bytes` in
    all, however many workers there are. `making_bytes` is what making batches took in the main process at the most.
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
        """What a worker has for itself at the end of an epoch."""
        return self.worker_private_bytes + self.worker_growth_bytes


@dataclass(frozen=True)
class Left:
    """What is left of the CPU seconds that a worker takes for a plain sample, as a share of them.

    Collate is a part of both, and so is new shared memory for what is handed over. `reusing` is the same where both are
    made in reused memory. Above 1 where it takes longer than a plain one. `alone` is the same of a main process without
    workers, where torch has its threads and a batch with deferred operators is finished, too.
    """

    plainly: float
    reusing: float
    alone: Left | None = None


@dataclass(frozen=True)
class CutCost:
    """What a store after the operator `after` would take, and what it would save; all per sample.

    `left` is of a sample that is made of a stored value, and `left_deferred` where operators are deferred, too: None
    where both can't be had. `wait_share` is the part of its waiting that is saved. `write_seconds` are those to store a
    value, which only samples of the first epoch pay. `outlives` is whether a store may serve later runs: not where what
    the values are made of could change unseen.
    """

    after: str
    value_bytes: float
    left: Left
    wait_share: float
    write_seconds: float
    outlives: bool = True
    left_deferred: Left | None = None


@dataclass(frozen=True)
class DeferralCost:
    """What moving `operators` behind collate takes off the process that makes a sample, and adds to the main process.

    `left` is of what is still done where samples are made. `main_seconds` are those of the main process, and
    `main_seconds_reusing` where it uses its memory again. Seconds and bytes are per sample. `bytes_saved` is by how
    much less is handed over, negative where it is more.
    """

    operators: tuple[str, ...]
    left: Left
    main_seconds: float
    main_seconds_reusing: float
    bytes_saved: float


@dataclass(frozen=True)
class ThreadsCost:
    """What `threads` that make the samples of a batch at once were seen to gain, up to `until`, None for whole samples.

    They take `time_factor` times as long as one thread: 1 / threads at best, more where they wait for the interpreter's
    lock, for storage, or for the slowest sample of a batch. It is `crowded_time_factor` where other processes keep all
    cores but one busy: longer for what computes, and shorter where threads on several cores contend for the lock.

    Beside all that a sample waits, they take over `threaded_cpu_seconds` of it, with torch's own threads out of use,
    and spend `cpu_factor` times as much. `serial_seconds` per sample are spent after them, by the worker's own thread
    (the rest of the sample, and collate). Each thread holds `thread_bytes` for itself at the most.
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
    """What reused memory saves a process that makes whole batches: `left_share` of their CPU seconds are left.

    That is without what a worker saves on memory to hand them over in: one takes `worker_seconds` of CPU for a sample,
    as the main process does with one thread of torch's; None where that was not seen. It takes `copying_seconds` beside
    these to bring it to where it is handed over. `kept_bytes` is what the main process then keeps from the system.
    """

    left_share: float
    kept_bytes: float
    worker_seconds: float | None = None
    copying_seconds: float = 0.0


@dataclass(frozen=True)
class StorageBandwidth:
    """Bytes per second that storage delivers to so many outstanding reads; `outstanding` ascends."""

    outstanding: tuple[float, ...]
    bytes_per_second: tuple[float, ...]


@dataclass(frozen=True)
class Situation:
    """All that the model knows: the cost of a sample, the pace of the step, the host, and the length of an epoch.

    - `cost` was measured in the main process; `cost_in_worker` in a worker, where caches, memory and threads differ.
    - `batch_seconds` are times of single batches; only how they spread is used.
    - `read_bytes`: what a sample reads from storage.
    - `step_blocks`: whether the loop stands still until a step is done, and takes no batch over meanwhile.
    - `torch_threads_speedup`: how much faster a sample is made when torch may use more than one thread.
    - `fresh_seconds`: CPU seconds of a worker for a sample's share of shared memory that nobody has touched before.
    - `start_seconds_in_main` and `start_seconds_in_worker`: what starting a worker takes of either.
    - `worker_overlap`: how many times as much CPU as time a worker takes that hands batches over in fresh memory.
    - `transfer_bytes_per_second`: from the host to the device, None where there is none.
    - `pool_cpus`: how many CPUs threads of a library's own keep busy while a sample is made.
    - `competition`: what other processes want of the CPUs, None where nobody has looked.
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
    competition: Competition | None = None

    def start_seconds(self, workers: Any) -> Any:
        """What the start of so many workers (a number or an array) takes.

        The main process starts one after another; they get ready as many at once as there are cores.
        """
        count = np.asarray(workers, dtype=float)
        rounds = np.where(count > 0, np.maximum(1.0, count / max(1.0, self.limits.cpus)), 0.0)
        return count * self.start_seconds_in_main + rounds * self.start_seconds_in_worker

    @property
    def samples_at_once(self) -> float:
        """As many samples may be made at once before their source collapses; infinite where it was not seen to.

        It collapses where more threads take far longer than fewer for the same, though what they do is to wait. Any
        number below is allowed, since what lies between the last good number and the first bad one was not seen.
        """
        if self.cost.wait_seconds < self.cost.cpu_seconds:
            return math.inf
        fastest: dict[str | None, float] = {}
        for cost in sorted(self.threads, key=lambda cost: cost.threads):
            best = fastest.get(cost.until, 1.0)
            if cost.time_factor > _COLLAPSED * best:
                return cost.threads - 1.0
            fastest[cost.until] = min(best, cost.time_factor)
        return math.inf
