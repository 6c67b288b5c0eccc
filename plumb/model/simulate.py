"""A discrete-event twin of torch's DataLoader and of the loop that takes its batches.

What it copies of torch (torch/utils/data/dataloader.py): indices go to the workers in turn; `num_workers *
prefetch_factor` are outstanding when an epoch begins, and one more is sent only when a batch is *yielded*, so that with
`in_order` one slow batch stops the dispatch to all; finished batches wait in one queue, and the main process takes each
over when it comes to it, whether it is the one wanted next or not.

Workers share the cores: while more processes compute than there are cores, each gets its share, and all are slowed down
as the calibration says. The time that a batch waits is not shared.
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

# The main process among the processes that compute or wait; workers are counted from 0. The step is nobody's there.
MAIN, STEP = -1, -2
_NOTHING = -1
_EPOCHS_AT_LEAST = 2


@dataclass(frozen=True)
class Loading:
    """What is simulated; seconds are per batch, and those of CPU are without any slow-down.

    A batch takes `cpu_seconds` and `wait_seconds`, both times a factor drawn from `spread`. The main process computes
    for `hand_over_seconds` for each, and steps for `step_seconds`, of which it computes for `step_cpu_seconds`; it does
    nothing else until the step is done where that `step_blocks`. Every epoch has `epoch_batches`, None for one that
    never ends; starting its workers, unless they persist, takes `start_seconds`.
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
class Simulated:
    """How a loop went: its rate, the share of its time in which nothing was stepped, and the seconds of every epoch."""

    batches_per_second: float
    stall_share: float
    epoch_seconds: tuple[float, ...]


@dataclass(frozen=True)
class Span:
    """What a process did from one time to another, in seconds since the epoch began.

    `process` counts the workers from 0; MAIN is the main process, and STEP whoever computes the training step. `doing`
    is "waits" or "computes" for who makes batches, "takes over" for the main process and "steps" for the step.
    """

    process: int
    doing: str
    batch: int
    begin_seconds: float
    end_seconds: float


def simulate(loading: Loading, batches: int = 1000, seed: int = 0) -> Simulated:
    """Lets the loop consume about so many batches: whole epochs of them, or the steady state of a longer epoch.

    The rate is that of a typical epoch, and no epoch but the first starts workers that persist.
    """
    random = np.random.default_rng(seed)

    def epoch(batches: int) -> list[float]:
        # Each as often as any other, so that a rare one does not make a difference by chance.
        return consumed(loading, random.permutation(np.resize(random.permutation(loading.spread), batches)).tolist())

    length = loading.epoch_batches
    if length is None or length > batches:
        return _steady(loading, batches, epoch)
    epochs = max(_EPOCHS_AT_LEAST, math.ceil(batches / length))
    later_start = 0.0 if loading.persistent_workers else loading.start_seconds
    starts = [loading.start_seconds, *[later_start] * (epochs - 1)]
    seconds = [start + epoch(length)[-1] for start in starts]
    typical = sum(seconds[1:]) / (epochs - 1)
    return Simulated(length / typical, 1.0 - length * loading.step_seconds / typical, tuple(seconds))


def _steady(loading: Loading, batches: int, epoch: Callable[[int], list[float]]) -> Simulated:
    warm_up = 2 * loading.num_workers * loading.prefetch_factor + 1
    times = epoch(batches + warm_up)
    per_batch = (times[-1] - times[warm_up - 1]) / batches
    if loading.epoch_batches is None:
        return Simulated(1.0 / per_batch, 1.0 - loading.step_seconds / per_batch, ())
    first = loading.epoch_batches * per_batch + loading.start_seconds
    later = first - loading.start_seconds * loading.persistent_workers
    stepping = loading.epoch_batches * loading.step_seconds
    return Simulated(loading.epoch_batches / later, 1.0 - stepping / later, (first, later))


def consumed(loading: Loading, factors: Sequence[float]) -> list[float]:
    """When the step of each batch of one epoch was done, in seconds after the workers were ready.

    `factors` are those of the epoch's batches, in their order.
    """
    cpu, wait = _seconds(loading, factors)
    if loading.num_workers:
        return _Epoch(loading, cpu, wait).run()
    in_turn = loading.hand_over_seconds + loading.step_seconds
    return list(itertools.accumulate(sum(own) + in_turn for own in zip(cpu, wait, strict=True)))


def spans(loading: Loading, factors: Sequence[float]) -> list[Span]:
    """What every process did in the epoch of `consumed`, without what took no time, by their beginnings."""
    cpu, wait = _seconds(loading, factors)
    found: list[Span] = []
    if loading.num_workers:
        _Epoch(loading, cpu, wait, found).run()
    else:
        found = _in_turn(loading, cpu, wait)
    took_time = (span for span in found if span.end_seconds > span.begin_seconds)
    return sorted(took_time, key=lambda span: span.begin_seconds)


def _in_turn(loading: Loading, cpu: Sequence[float], wait: Sequence[float]) -> list[Span]:
    """Without workers the main process does one thing after another."""
    found, now = [], 0.0
    for batch, (computing, waiting) in enumerate(zip(cpu, wait, strict=True)):
        for process, doing, seconds in (
            (MAIN, "waits", waiting),
            (MAIN, "computes", computing),
            (MAIN, "takes over", loading.hand_over_seconds),
            (STEP, "steps", loading.step_seconds),
        ):
            found.append(Span(process, doing, batch, now, now + seconds))
            now += seconds
    return found


def _seconds(loading: Loading, factors: Sequence[float]) -> tuple[list[float], list[float]]:
    """The CPU seconds of each batch, and those that it waits."""
    return [loading.cpu_seconds * factor for factor in factors], [loading.wait_seconds * factor for factor in factors]


class _Epoch:
    """One epoch with workers, event by event: somebody's wait, or computing, comes to its end.

    All who compute have the same share of the cores. So one clock serves for all of them: `work`, the CPU seconds that
    each has had so far, which runs the slower the more of them there are. What everyone does is noted in `spans`, where
    they are wanted.
    """

    def __init__(self, loading: Loading, cpu: list[float], wait: list[float], spans: list[Span] | None = None) -> None:
        workers = loading.num_workers
        self._cpu, self._wait = cpu, wait
        self._in_order, self._workers, self._quota = loading.in_order, workers, loading.prefetch_factor
        self._hand_over = loading.hand_over_seconds
        self._step = loading.step_seconds
        self._step_cpu = min(loading.step_cpu_seconds, loading.step_seconds)
        self._step_blocks = loading.step_blocks
        jobs = np.arange(1, workers + 2)
        # The CPU seconds per second of each of so many who compute, in terms of what a batch takes without slow-down.
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
        """The time at which each step was done."""
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
        """The main process sends the next index to the worker whose turn it is."""
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
            self._spans.append(Span(worker, "waits", batch, begun, computing))
            self._spans.append(Span(worker, "computes", batch, computing, self._now))
        self._finished.append((batch, worker))
        if self._queues[worker]:
            self._begin(worker)
        else:
            self._in_hand[worker] = _NOTHING

    def _main_process(self) -> Iterator[None]:
        """Takes batches over, gives them to the loop and steps; stops wherever time must pass first.

        A step that does not block is computed by a device that the loop runs ahead of by no more than one batch.
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
                        spans.append(Span(MAIN, "takes over", batch, begun, self._now))
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
                spans.append(Span(STEP, "steps", wanted, begun, self._consumed[-1]))
        yield
