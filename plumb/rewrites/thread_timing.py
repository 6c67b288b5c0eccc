"""Timing of fetch threads: batches loaded by 1, 4, 16 and 64 threads, timed as in a worker."""

from __future__ import annotations

import heapq
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, cycle, islice
from typing import Any

import numpy as np

from plumb.core.errors import one_line
from plumb.host.process_memory import MemoryGrowth
from plumb.host.threads import one_torch_thread, reading_threads
from plumb.model.concurrency_climb import SourceCapacity

THREADS = (4, 16, 64)
_BATCHES_AT_MOST = 12
# Times are erratic (a few samples are very slow) if their standard deviation exceeds this multiple of their mean.
_ERRATIC = 1.0
# Number of samples drawn to estimate the expected time of a batch.
_DRAWN = 20_000
# A thread that reads samples usually holds so many bytes, and so many times those of a sample, where nobody has looked.
_THREAD_BYTES, _SAMPLES_HELD = 2.0**19, 4.0


@dataclass(frozen=True)
class ThreadsGain:
    """Cost of a batch with `threads` threads relative to one thread.

    `time_factor` is the ratio of wall times, `crowded_time_factor` that ratio when all threads share one core, and
    `cpu_factor` the ratio of CPU times; it can be below 1 if one thread mostly waits, because a core that never idles
    need not be woken up and keeps its caches. `thread_bytes` is the memory that each thread holds.
    """

    threads: int
    time_factor: float
    crowded_time_factor: float
    cpu_factor: float
    thread_bytes: float


@dataclass(frozen=True)
class ThreadsTimed:
    """Gains of several threads over one thread, whose CPU seconds per sample are `alone_cpu_seconds`.

    `reason` says which number of threads failed and why, or is empty.
    """

    alone_cpu_seconds: float
    gains: tuple[ThreadsGain, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class _SecondsPerSample:
    """Seconds per sample: wall and CPU time. `batches` are the wall seconds of each sample, batch by batch."""

    wall: float
    cpu: float
    batches: list[list[float]]


@dataclass(frozen=True)
class _ThreadsSpent:
    """Time that a number of threads spent on batches, on all cores and on one, and bytes held per thread."""

    threads: int
    free: _SecondsPerSample
    crowded: _SecondsPerSample
    thread_bytes: float


def time_threads(
    read: Callable[[Any], Any],
    indices: Sequence[Any],
    samples_per_batch: int,
    alone_seconds: float,
    alone_cpu_seconds: float,
    budget_seconds: float,
    threads: Sequence[int] = THREADS,
) -> ThreadsTimed:
    """Time batches loaded by one thread and by several.

    A batch is done when its slowest sample is, as in a worker. Numbers of threads that exceed a batch, or that would
    take longer than their share of the budget, are left out. If samples mostly wait and a few of them very long, some
    numbers of threads meet a slow sample and others none: then each number's time is estimated for samples drawn from
    all that were met. The single thread must have met slow samples too, because threads that queue for a lock are slow
    now and then only because of each other.

    Args:
        read: Function that loads the sample of an index.
        indices: Indices to load, repeated as needed.
        samples_per_batch: Samples per batch.
        alone_seconds: Wall seconds of one sample loaded by one thread, for planning.
        alone_cpu_seconds: CPU seconds of one sample loaded by one thread.
        budget_seconds: Seconds for all measurements, roughly.
        threads: Numbers of threads, ascending.

    Returns:
        The gains; a failing `read` ends the measurement and sets `reason`.

    """
    ahead = cycle(indices)
    counts = [count for count in threads if count <= samples_per_batch]
    # The fewest threads take longest, so they are dropped first; what remains gets larger shares of the budget.
    while counts and samples_per_batch * alone_seconds / counts[0] >= _share(budget_seconds, counts) / 3:
        del counts[0]
    if not counts:
        return ThreadsTimed(alone_cpu_seconds)
    share = _share(budget_seconds, counts)
    seen: list[_ThreadsSpent] = []
    at_once, grown, timed, reason = 1, MemoryGrowth(), _timed(read), ""
    waits = 2 * alone_cpu_seconds < alone_seconds
    try:
        few = min(samples_per_batch, math.ceil(share / 2 / max(alone_seconds, 1e-9)))
        with one_torch_thread():
            # The first read opens files, which is no cost of a sample.
            read(next(ahead))
            # No pool for the single thread, because handing samples to threads is a cost of having threads.
            alone = _spent_alone(timed, ahead, few, share / 2)
        for at_once in counts:
            spent = _spent_by_threads(at_once, timed, ahead, samples_per_batch, share / 3)
            with _on_one_core():
                # One core stands for workers that keep the others busy: threads that alternate on it switch more
                # cheaply.
                crowded = _spent_by_threads(at_once, timed, ahead, samples_per_batch, share / 3)
            # The growth includes what the threads need at once and what their allocator arenas keep.
            seen.append(_ThreadsSpent(at_once, spent, crowded, grown.bytes() / at_once))
        if waits and _is_erratic(_threaded(seen)) and not _is_erratic([alone]):
            # Tells threads that hinder each other from a single thread that met too few samples to see a slow one.
            at_once = 1
            with one_torch_thread():
                alone = _spent_alone(timed, ahead, few, share)
    except Exception as error:
        reason = f"{at_once} at once fail: {one_line(error)}"
    if not seen:
        return ThreadsTimed(alone_cpu_seconds, reason=reason)
    return ThreadsTimed(alone.cpu, _gains(alone, seen, samples_per_batch, waits), reason)


def gains_of_climb(source: SourceCapacity, samples_per_batch: int, sample_bytes: float) -> tuple[ThreadsGain, ...]:
    """Return what threads gain as far as their source's climb tells it, for want of time to time batches.

    Samples that wait need no cores for that, so these are taken to be free.
    """
    curve = dict(zip(source.reads, source.samples_per_second, strict=True))
    alone = curve.get(1, 0.0)
    each = _THREAD_BYTES + _SAMPLES_HELD * sample_bytes
    return tuple(
        ThreadsGain(threads, factor, factor, 1.0, each)
        for threads, rate in curve.items()
        if 1 < threads <= samples_per_batch
        for factor in [max(alone / rate, math.ceil(samples_per_batch / threads) / samples_per_batch)]
    )


def interpolated_gains(gains: Sequence[ThreadsGain], samples_per_batch: int) -> tuple[ThreadsGain, ...]:
    """Return the gains with those of counts of threads between the measured ones, each once and a half the one before.

    Time per sample falls with a power of the number of threads between two that were measured, and no batch takes fewer
    rounds than its samples need.
    """
    if not gains:
        return ()
    known = [ThreadsGain(1, 1.0, 1.0, 1.0, 0.0), *gains]
    places = np.log([gain.threads for gain in known])
    counts = {count for power in range(1, 12) for count in (2**power, 3 * 2 ** (power - 1))}
    measured = {gain.threads: gain for gain in gains}

    def between(threads: int) -> ThreadsGain:
        at = math.log(threads)
        least = math.ceil(samples_per_batch / threads) / samples_per_batch

        def factor(values: Sequence[float]) -> float:
            return max(least, math.exp(float(np.interp(at, places, np.log(values)))))

        return ThreadsGain(
            threads,
            factor([gain.time_factor for gain in known]),
            factor([gain.crowded_time_factor for gain in known]),
            float(np.interp(at, places, [gain.cpu_factor for gain in known])),
            max(gain.thread_bytes for gain in gains),
        )

    wanted = sorted({count for count in counts if count < gains[-1].threads} | measured.keys())
    return tuple(measured.get(count) or between(count) for count in wanted)


def _gains(
    alone: _SecondsPerSample, seen: Sequence[_ThreadsSpent], samples: int, waits: bool
) -> tuple[ThreadsGain, ...]:
    """Return each number of threads' gain over one thread, for batches of `samples` samples."""
    batches = _drawn(_spread([alone, *_threaded(seen)]), samples) if waits and _is_erratic([alone]) else None

    def walls(threads: int, *spent: _SecondsPerSample) -> list[float]:
        if batches is None:
            return [each.wall for each in spent]
        expected = statistics.fmean(_last_done(batch, threads) for batch in batches) / samples
        return [_as_a_rule(each, threads, expected) for each in spent]

    one = max(*walls(1, alone), 1e-9)
    factors = [
        [max(wall / one, 1.0 / each.threads) for wall in walls(each.threads, each.free, each.crowded)] for each in seen
    ]
    return tuple(
        ThreadsGain(
            each.threads,
            time_factor=free,
            crowded_time_factor=crowded,
            cpu_factor=max(min(each.free.cpu, each.crowded.cpu) / max(alone.cpu, 1e-9), 0.0 if waits else 1.0),
            thread_bytes=each.thread_bytes,
        )
        for each, (free, crowded) in zip(seen, factors, strict=True)
    )


def _threaded(seen: Sequence[_ThreadsSpent]) -> list[_SecondsPerSample]:
    return [spent for each in seen for spent in (each.free, each.crowded)]


def _is_erratic(spent: Sequence[_SecondsPerSample]) -> bool:
    """Return whether a few of the samples take much longer than the others."""
    times = _spread(spent)
    return bool(np.std(times) > _ERRATIC * np.mean(times))


def _spread(spent: Sequence[_SecondsPerSample]) -> Any:
    """Return all samples' times as multiples of the median of the samples that were read in the same way."""
    each = [list(chain.from_iterable(one.batches)) for one in spent]
    return np.concatenate([np.array(seconds) / max(statistics.median(seconds), 1e-9) for seconds in each])


def _drawn(met: Any, samples: int) -> list[list[float]]:
    """Draw batches of `samples` samples each from the relative times in `met`."""
    drawn: list[list[float]] = np.random.default_rng(0).choice(met, (max(1, _DRAWN // samples), samples)).tolist()
    return drawn


def _as_a_rule(spent: _SecondsPerSample, threads: int, expected: float) -> float:
    """Return wall seconds per sample for batches whose samples take `expected` times their median, as drawn ones do."""
    usual = statistics.median(chain.from_iterable(spent.batches))
    seen = sum(_last_done(batch, threads) for batch in spent.batches) / sum(map(len, spent.batches))
    # The rest of the measured time goes to handing samples to threads, which doesn't depend on how slow they are.
    return usual * expected + max(0.0, spent.wall - seen)


def _last_done(seconds: Sequence[float], threads: int) -> float:
    """Return the time at which the last sample is done if each goes to the first free thread."""
    free_at = [0.0] * threads
    for each in seconds:
        heapq.heapreplace(free_at, free_at[0] + each)
    return max(free_at)


def _share(budget_seconds: float, counts: Sequence[int]) -> float:
    """Return the seconds for each number of threads, counting the single thread as one of them."""
    return budget_seconds / (len(counts) + 1)


def _timed(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, float]]:
    """Return a function that returns `read`'s result and the seconds that it took."""

    def timed(index: Any) -> tuple[Any, float]:
        begin = time.perf_counter()
        value = read(index)
        return value, time.perf_counter() - begin

    return timed


def _spent_alone(
    timed: Callable[[Any], tuple[Any, float]], ahead: Iterator[Any], samples: int, seconds: float
) -> _SecondsPerSample:
    return _spent(lambda batch: list(map(timed, batch)), ahead, samples, seconds)


def _spent_by_threads(
    threads: int, timed: Callable[[Any], tuple[Any, float]], ahead: Iterator[Any], samples: int, seconds: float
) -> _SecondsPerSample:
    with reading_threads(threads, timed, ahead) as pool:
        return _spent(lambda batch: list(pool.map(timed, batch)), ahead, samples, seconds)


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Keep this thread, and threads started inside, on one of its cores, if the system supports that."""
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
    read_all: Callable[[Iterator[Any]], list[tuple[Any, float]]], ahead: Iterator[Any], samples: int, seconds: float
) -> _SecondsPerSample:
    """Measure batches of `samples` samples for about `seconds`. Raise what `read_all` raises."""
    wall, cpu, batches = 0.0, time.process_time(), list[list[float]]()
    while len(batches) < _BATCHES_AT_MOST and (wall < seconds or not batches):
        begin = time.perf_counter()
        batches.append([spent for _, spent in read_all(islice(ahead, samples))])
        wall += time.perf_counter() - begin
    cpu = time.process_time() - cpu
    count = len(batches) * samples
    return _SecondsPerSample(wall / count, cpu / count, batches)
