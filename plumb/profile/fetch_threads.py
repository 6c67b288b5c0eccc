"""What fetch threads gain: batches made by ever more of them, timed as a worker would make them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from plumb.errors import one_line
from plumb.profile.memory import Grown
from plumb.profile.threads import one_torch_thread, reading_threads

THREADS = (4, 16, 64)
_BATCHES_AT_MOST = 12


@dataclass(frozen=True)
class ThreadsGain:
    """How many times as long as one thread so many take for a batch, how many times the CPU, and what each holds.

    `crowded_time_factor` is the first where they have one core between them.
    """

    threads: int
    time_factor: float
    crowded_time_factor: float
    cpu_factor: float
    thread_bytes: float


@dataclass(frozen=True)
class ThreadsTimed:
    """What threads gain over one, which takes `alone_cpu_seconds` for a sample; and why no more could, if so."""

    alone_cpu_seconds: float
    gains: tuple[ThreadsGain, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class _Spent:
    """Seconds per sample: by the clock, and of CPU."""

    wall: float
    cpu: float


def timed_threads(
    read: Callable[[Any], Any],
    indices: Sequence[Any],
    samples_per_batch: int,
    alone_seconds: float,
    alone_cpu_seconds: float,
    budget_seconds: float,
) -> ThreadsTimed:
    """What 4, 16 and 64 threads gain over one, which takes `alone_seconds` for a sample, of which it computes so many.

    Where it mostly waits, it is not timed again: a source that is slow now and then takes longer looks than these.

    Times batches of what `read` gives for `indices`, those of one thread too, within about `budget_seconds` in all. A
    count that would take longer than its share, or is larger than a batch, is left out. A batch is done when its
    slowest sample is, as in a worker.
    """
    ahead = cycle(indices)
    counts = [count for count in THREADS if count <= samples_per_batch]
    # The fewer there are, the more time each has: what takes longest, the fewest threads, is left out first.
    while counts and samples_per_batch * alone_seconds / counts[0] >= _share(budget_seconds, counts) / 3:
        del counts[0]
    if not counts:
        return ThreadsTimed(alone_cpu_seconds)
    share = _share(budget_seconds, counts)
    gains: list[ThreadsGain] = []
    at_once, grown = 1, Grown()
    try:
        affordable = math.ceil(share / 2 / max(alone_seconds, 1e-9))
        with one_torch_thread():
            # What is opened once is opened now.
            read(next(ahead))
            # As it is read without any threads: what it takes to hand samples to them is part of their time.
            alone = _spent(lambda batch: list(map(read, batch)), ahead, min(samples_per_batch, affordable), share / 2)
        if 2 * alone_cpu_seconds < alone_seconds:
            alone = _Spent(alone_seconds, alone.cpu)
        for at_once in counts:
            spent = _spent_by_threads(at_once, read, ahead, samples_per_batch, share / 3)
            with _on_one_core():
                # As where other workers keep the rest busy: threads that take turns spend less on who is next.
                crowded = _spent_by_threads(at_once, read, ahead, samples_per_batch, share / 3)
            gains.append(
                ThreadsGain(
                    at_once,
                    time_factor=max(spent.wall / max(alone.wall, 1e-9), 1.0 / at_once),
                    crowded_time_factor=max(crowded.wall / max(alone.wall, 1e-9), 1.0 / at_once),
                    cpu_factor=max(min(spent.cpu, crowded.cpu) / max(alone.cpu, 1e-9), 1.0),
                    # What each needs at the same time, and what their allocator keeps for it.
                    thread_bytes=grown.bytes() / at_once,
                )
            )
    except Exception as error:
        return ThreadsTimed(alone_cpu_seconds, tuple(gains), f"{at_once} at once fail: {one_line(error)}")
    return ThreadsTimed(alone.cpu, tuple(gains))


def _share(budget_seconds: float, counts: Sequence[int]) -> float:
    """The seconds for each count, one thread being another."""
    return budget_seconds / (len(counts) + 1)


def _spent_by_threads(
    threads: int, read: Callable[[Any], Any], ahead: Iterator[Any], samples: int, seconds: float
) -> _Spent:
    with reading_threads(threads, read, ahead) as pool:
        return _spent(lambda batch: list(pool.map(read, batch)), ahead, samples, seconds)


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Keeps this thread, and those that it starts meanwhile, to one of its cores, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _spent(
    read_all: Callable[[Iterator[Any]], Sequence[Any]], ahead: Iterator[Any], samples: int, seconds: float
) -> _Spent:
    """What batches of so many samples take. Raises what `read_all` raises."""
    wall, cpu, batches = 0.0, time.process_time(), 0
    while batches < _BATCHES_AT_MOST and (wall < seconds or not batches):
        begin = time.perf_counter()
        read_all(islice(ahead, samples))
        wall += time.perf_counter() - begin
        batches += 1
    cpu = time.process_time() - cpu
    return _Spent(wall / (batches * samples), cpu / (batches * samples))
