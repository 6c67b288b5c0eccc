"""Measurement of the loop, batch by batch: its rate, its waiting, and its CPU use.

A span is a few whole rounds of one batch per worker, in steady state. With an accelerator in use, it ends when the
accelerator has done all queued work.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from plumb.core.config import Config
from plumb.core.plan import Rate
from plumb.host.process_memory import cpu_seconds
from plumb.host.run_queue import queued_seconds
from plumb.model.calibration import ProbeRun, without_queueing
from plumb.tuning.measure.throughput import CHUNK_SECONDS, Chunk, rate_of


@dataclass(frozen=True)
class Delivery:
    """One batch that the loop got, at `at` seconds by `time.perf_counter`.

    `wait_*` is the time that the loop spent on requesting it, `step_*` the time since the previous batch. `is_steady`:
    no batch prefetched at a start is counted. `is_filled`: its store, if there is one, was not being filled.
    `ends_span`: the accelerator had finished its work before the request. `start_seconds` is the time to start its
    workers, `pids` are their processes.
    """

    config: Config
    samples: int
    at: float
    wait_seconds: float
    wait_cpu_seconds: float
    step_seconds: float
    step_cpu_seconds: float
    is_steady: bool
    is_filled: bool
    ends_span: bool
    start_seconds: float
    pids: tuple[int, ...]


@dataclass(frozen=True)
class MeteredRounds:
    """Whole rounds of consecutive batches: the loop's time for them, and its workers' CPU time meanwhile.

    `queued_seconds` is the time in which a process that makes samples was ready to run and others had the CPUs.
    """

    samples: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    wait_cpu_seconds: float = 0.0
    step_seconds: float = 0.0
    step_cpu_seconds: float = 0.0
    worker_cpu_seconds: float = 0.0
    queued_seconds: float = 0.0

    def __add__(self, other: MeteredRounds) -> MeteredRounds:
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return MeteredRounds(*(one + another for one, another in zip(mine, theirs, strict=True)))


@dataclass(frozen=True)
class MeteredLoop:
    """Measurement of a configuration in the user's own loop."""

    config: Config
    spans: tuple[MeteredRounds, ...]
    worker_private_bytes: float = 0.0
    start_seconds: float = 0.0

    @property
    def rate(self) -> Rate:
        """Samples per second of the loop, with its interval."""
        return rate_of([Chunk(span.samples, span.seconds) for span in self.spans])

    @property
    def total(self) -> MeteredRounds:
        """Sum of all spans."""
        return sum(self.spans, MeteredRounds())

    @property
    def step_seconds(self) -> float:
        """Seconds that the loop spends on a sample besides waiting; single long pauses don't count."""
        return median(span.step_seconds / span.samples for span in self.spans)

    @property
    def step_cpu_seconds(self) -> float:
        """CPU seconds of this process for that, per sample."""
        return median(span.step_cpu_seconds / span.samples for span in self.spans)

    @property
    def waiting_share(self) -> float:
        """Share of the loop's time in which it waits for a batch or makes one."""
        return median(span.wait_seconds / span.seconds for span in self.spans)

    @property
    def run(self) -> ProbeRun:
        """The measurement as a run for the model's calibration, without the time in which others had the CPUs."""
        total, workers = self.total, max(self.config.num_workers, 1)
        seconds = without_queueing(total.seconds, workers, total.queued_seconds)
        return ProbeRun(
            self.config.num_workers, total.samples, seconds, total.worker_cpu_seconds, total.wait_cpu_seconds
        )

    def and_again(self, other: MeteredLoop) -> MeteredLoop:
        """Merge two measurements of the same configuration."""
        return dataclasses.replace(self, spans=self.spans + other.spans)


class Meter:
    """Collector of deliveries into spans. A span cut short by an epoch's end continues if the workers do."""

    def __init__(self) -> None:
        self._span = MeteredRounds()
        self._batches = 0
        self._began: float | None = None
        self._last: Delivery | None = None
        self._usage = (0.0, 0.0)

    def is_due(self, now: float, workers: int) -> bool:
        """Return whether the next delivery completes a span."""
        is_round = (self._batches + 1) % max(workers, 1) == 0
        return self._began is not None and is_round and self._span.seconds + now - self._began >= CHUNK_SECONDS

    def note(self, delivery: Delivery) -> MeteredRounds | None:
        """Add a delivery; return the span that it completes, if any."""
        if not delivery.is_steady:
            self._pause(delivery.pids)
            return None
        self._last = delivery
        if self._began is None:
            self._begin(delivery)
            return None
        self._batches += 1
        self._span += MeteredRounds(
            delivery.samples,
            0.0,
            delivery.wait_seconds,
            delivery.wait_cpu_seconds,
            delivery.step_seconds,
            delivery.step_cpu_seconds,
        )
        if not delivery.ends_span:
            return None
        self._pause(delivery.pids)
        done, self._span = self._span, MeteredRounds()
        self._begin(delivery)
        return done

    def _begin(self, delivery: Delivery) -> None:
        self._batches, self._began, self._usage = 0, delivery.at, _usage(delivery.pids)

    def _pause(self, pids: tuple[int, ...]) -> None:
        """Add the time and CPU use since the last beginning; discard the span if the workers have changed."""
        if self._began is None or self._last is None:
            return
        if pids != self._last.pids:
            self._span = MeteredRounds()
        else:
            cpu, queued = _usage(pids)
            self._span += MeteredRounds(
                seconds=self._last.at - self._began,
                worker_cpu_seconds=max(0.0, cpu - self._usage[0]),
                queued_seconds=max(0.0, queued - self._usage[1]),
            )
        self._began = None


def _usage(pids: Sequence[int]) -> tuple[float, float]:
    """Return the workers' CPU seconds, and the seconds that they (without workers: this thread) queued for a CPU."""
    return cpu_seconds(pids), sum(map(queued_seconds, pids)) if pids else queued_seconds()


def now() -> tuple[float, float, float]:
    """Return the wall clock, and the CPU seconds of this thread and of this process."""
    return time.perf_counter(), time.thread_time(), time.process_time()
