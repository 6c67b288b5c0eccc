"""Discrete-event simulator of torch's DataLoader and of the loop that consumes its batches.

It follows torch (torch/utils/data/dataloader.py): indices go to the workers in turn; `num_workers * prefetch_factor`
are outstanding when an epoch begins, and one more is sent only when a batch is *yielded*, so that with `in_order` one
slow batch stops the dispatch to all workers; finished batches wait in one queue, and the main process receives them in
the queue's order, whether or not a batch is the next one wanted.

Workers share the cores: when more processes compute than there are cores, each gets an equal share, and all are slowed
down as the calibration says. Waiting time is not shared.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from plumb.model.calibration import Calibration

# Process numbers beside the workers' (from 0): the main process, and whatever computes the step.
MAIN, STEP = -1, -2
_NOTHING = -1
_EPOCHS_AT_LEAST = 2


@dataclass(frozen=True)
class SimulationParameters:
    """Parameters of a simulation. Seconds are per batch; CPU seconds are without slow-down.

    A batch takes `cpu_seconds` and `wait_seconds`, both times a factor drawn from `spread`. For each batch, the main
    process computes for `hand_over_seconds` to receive it. A step takes `step_seconds`, for `step_cpu_seconds` of which
    the main process computes; if `step_blocks`, the main process does nothing else until the step is done. Every epoch
    has `epoch_batches` batches (None: it never ends). Starting its workers, unless they persist, takes `start_seconds`.
    """

    num_workers: int
    prefetch_factor: int
    cpu_seconds: float
    wait_seconds: float = 0.0
    hand_over_seconds: float = 0.0
    step_seconds: float = 0.0
    step_cpu_seconds: float = 0.0
    step_blocks: bool = False
    spread: tuple[float, ...] = (1.0,)
    in_order: bool = True
    cores: float = math.inf
    calibration: Calibration = field(default_factory=Calibration)
    epoch_batches: int | None = None
    persistent_workers: bool = False
    start_seconds: float = 0.0


@dataclass(frozen=True)
class SimulationResult:
    """Result of a simulation: the rate, the share of time without a step, and the seconds of each epoch."""

    batches_per_second: float
    stall_share: float
    epoch_seconds: tuple[float, ...]


@dataclass(frozen=True)
class ProcessSpan:
    """An activity of a process, in seconds since the epoch began.

    `process` counts the workers from 0; MAIN is the main process, and STEP whatever computes the training step. `doing`
    is "waits" or "computes" for a process that makes batches, "takes over" for the main process, "steps" for the step.
    """

    process: int
    doing: str
    batch: int
    begin_seconds: float
    end_seconds: float


def simulate(loading: SimulationParameters, batches: int = 1000, seed: int = 0) -> SimulationResult:
    """Simulate a loop over about `batches` batches: whole epochs, or the steady state of a longer epoch.

    The rate is that of a typical epoch; only the first epoch starts workers that persist.

    Args:
        loading: Parameters of the loader and the step.
        batches: Number of batches.
        seed: Seed of the draws from `spread`.

    """
    random = np.random.default_rng(seed)

    def epoch(batches: int) -> list[float]:
        # Each factor occurs equally often, so that a rare one doesn't change the result by chance.
        return consumed(loading, random.permutation(np.resize(random.permutation(loading.spread), batches)).tolist())

    length = loading.epoch_batches
    if length is None or length > batches:
        return _steady(loading, batches, epoch)
    epochs = max(_EPOCHS_AT_LEAST, math.ceil(batches / length))
    later_start = 0.0 if loading.persistent_workers else loading.start_seconds
    starts = [loading.start_seconds, *[later_start] * (epochs - 1)]
    seconds = [start + epoch(length)[-1] for start in starts]
    typical = sum(seconds[1:]) / (epochs - 1)
    return SimulationResult(length / typical, 1.0 - length * loading.step_seconds / typical, tuple(seconds))


def _steady(loading: SimulationParameters, batches: int, epoch: Callable[[int], list[float]]) -> SimulationResult:
    warm_up = 2 * loading.num_workers * loading.prefetch_factor + 1
    times = epoch(batches + warm_up)
    per_batch = (times[-1] - times[warm_up - 1]) / batches
    if loading.epoch_batches is None:
        return SimulationResult(1.0 / per_batch, 1.0 - loading.step_seconds / per_batch, ())
    first = loading.epoch_batches * per_batch + loading.start_seconds
    later = first - loading.start_seconds * loading.persistent_workers
    stepping = loading.epoch_batches * loading.step_seconds
    return SimulationResult(loading.epoch_batches / later, 1.0 - stepping / later, (first, later))


def consumed(loading: SimulationParameters, factors: Sequence[float]) -> list[float]:
    """Return the times at which the steps of one epoch end, in seconds after the workers were ready.

    `factors` are the factors of the epoch's batches, in order.
    """
    cpu, wait = _seconds(loading, factors)
    if loading.num_workers:
        return _SimulatedEpoch(loading, cpu, wait).run()
    in_turn = loading.hand_over_seconds + loading.step_seconds
    return list(itertools.accumulate(sum(own) + in_turn for own in zip(cpu, wait, strict=True)))


def spans(loading: SimulationParameters, factors: Sequence[float]) -> list[ProcessSpan]:
    """Return all activities in the epoch of `consumed` that took time, sorted by their beginning."""
    cpu, wait = _seconds(loading, factors)
    found: list[ProcessSpan] = []
    if loading.num_workers:
        _SimulatedEpoch(loading, cpu, wait, found).run()
    else:
        found = _in_turn(loading, cpu, wait)
    took_time = (span for span in found if span.end_seconds > span.begin_seconds)
    return sorted(took_time, key=lambda span: span.begin_seconds)


def _in_turn(loading: SimulationParameters, cpu: Sequence[float], wait: Sequence[float]) -> list[ProcessSpan]:
    """Return the activities without workers, where the main process does everything in sequence."""
    found, now = [], 0.0
    for batch, (computing, waiting) in enumerate(zip(cpu, wait, strict=True)):
        for process, doing, seconds in (
            (MAIN, "waits", waiting),
            (MAIN, "computes", computing),
            (MAIN, "takes over", loading.hand_over_seconds),
            (STEP, "steps", loading.step_seconds),
        ):
            found.append(ProcessSpan(process, doing, batch, now, now + seconds))
            now += seconds
    return found


def _seconds(loading: SimulationParameters, factors: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the CPU seconds and the waiting seconds of each batch."""
    return [loading.cpu_seconds * factor for factor in factors], [loading.wait_seconds * factor for factor in factors]


class _SimulatedEpoch:
    """One epoch with workers, simulated event by event: a wait or a computation ends.

    All computing processes have the same share of the cores. So one clock serves for all of them: `work`, the CPU
    seconds that each has had so far, which runs slower the more of them there are. `spans` collects the activities if
    it is given.
    """

    def __init__(
        self, loading: SimulationParameters, cpu: list[float], wait: list[float], spans: list[ProcessSpan] | None = None
    ) -> None:
        workers = loading.num_workers
        self._cpu, self._wait = cpu, wait
        self._in_order, self._workers, self._quota = loading.in_order, workers, loading.prefetch_factor
        self._hand_over = loading.hand_over_seconds
        self._step = loading.step_seconds
        self._step_cpu = min(loading.step_cpu_seconds, loading.step_seconds)
        self._step_blocks = loading.step_blocks
        jobs = np.arange(1, workers + 2)
        # CPU seconds per second of each process, by the number of computing processes, in units without slow-down.
        speeds = np.minimum(1.0, loading.cores / jobs) / loading.calibration.slow_down(jobs, loading.cores)
        self._speeds = [1.0, *speeds.tolist()]
        self._now = self._work = 0.0
        self._computing: list[tuple[float, int]] = []
        self._waiting: list[tuple[float, int]] = []
        self._queues: list[deque[int]] = [deque() for _ in range(workers)]
        self._in_hand = [_NOTHING] * workers
        self._tasks = [0] * workers
        self._turn = self._sent = 0
        self._finished: deque[tuple[int, int]] = deque()
        self._main_waits_for_data = False
        self._consumed: list[float] = []
        self._begun = [0.0] * workers
        self._spans = spans

    def run(self) -> list[float]:
        """Return the time at which each step ended."""
        batches, computing, waiting, speeds = len(self._cpu), self._computing, self._waiting, self._speeds
        cpu, in_hand = self._cpu, self._in_hand
        for _ in range(self._workers * self._quota):
            self._send()
        main_process = self._main_process()
        next(main_process)
        while len(self._consumed) < batches:
            speed = speeds[len(computing)]
            computed = self._now + (computing[0][0] - self._work) / speed if computing else math.inf
            if waiting and waiting[0][0] < computed:
                self._work += (waiting[0][0] - self._now) * speed
                self._now, who = heappop(waiting)
                if who != MAIN:
                    heappush(computing, (self._work + cpu[in_hand[who]], who))
                    continue
            else:
                self._now = computed
                self._work, who = heappop(computing)
            if who != MAIN:
                self._finish(who)
                if not self._main_waits_for_data:
                    continue
            next(main_process)
        return self._consumed

    def _send(self) -> None:
        """Send the next index from the main process to the worker whose turn it is."""
        if self._sent == len(self._cpu):
            return
        turn = self._turn
        while not self._in_order and self._tasks[turn] >= self._quota:
            turn = (turn + 1) % self._workers
        self._turn = (turn + 1) % self._workers
        self._tasks[turn] += 1
        self._queues[turn].append(self._sent)
        self._sent += 1
        if self._in_hand[turn] == _NOTHING:
            self._begin(turn)

    def _begin(self, worker: int) -> None:
        batch = self._in_hand[worker] = self._queues[worker].popleft()
        self._begun[worker] = self._now
        wait = self._wait[batch]
        if wait > 0.0:
            heappush(self._waiting, (self._now + wait, worker))
        else:
            heappush(self._computing, (self._work + self._cpu[batch], worker))

    def _finish(self, worker: int) -> None:
        batch, begun = self._in_hand[worker], self._begun[worker]
        computing = begun + self._wait[batch]
        if self._spans is not None:
            self._spans.append(ProcessSpan(worker, "waits", batch, begun, computing))
            self._spans.append(ProcessSpan(worker, "computes", batch, computing, self._now))
        self._finished.append((batch, worker))
        if self._queues[worker]:
            self._begin(worker)
        else:
            self._in_hand[worker] = _NOTHING

    def _main_process(self) -> Iterator[None]:
        """Receive batches, pass them to the loop and step; yield whenever time must pass first.

        A step that doesn't block runs on a device, and the loop runs ahead of it by at most one batch.
        """
        computing, waiting, finished, tasks = self._computing, self._waiting, self._finished, self._tasks
        hand_over, step, step_cpu, in_order = self._hand_over, self._step, self._step_cpu, self._in_order
        spans, stepped = self._spans, 0.0
        early: dict[int, int] = {}
        for wanted in range(len(self._cpu)):
            worker = early.pop(wanted, _NOTHING)
            while worker == _NOTHING:
                while not finished:
                    self._main_waits_for_data = True
                    yield
                self._main_waits_for_data = False
                batch, maker = finished.popleft()
                if hand_over > 0.0:
                    begun = self._now
                    heappush(computing, (self._work + hand_over, MAIN))
                    yield
                    if spans is not None:
                        spans.append(ProcessSpan(MAIN, "takes over", batch, begun, self._now))
                if batch == wanted or not in_order:
                    worker = maker
                else:
                    early[batch] = maker
            tasks[worker] -= 1
            self._send()
            before, begun = stepped, max(stepped, self._now)
            stepped = begun + step
            if step_cpu > 0.0:
                heappush(computing, (self._work + step_cpu, MAIN))
                yield
            until = stepped if self._step_blocks else before
            if until > self._now:
                heappush(waiting, (until, MAIN))
                yield
            self._consumed.append(max(stepped, self._now))
            if spans is not None:
                spans.append(ProcessSpan(STEP, "steps", wanted, begun, self._consumed[-1]))
        yield
