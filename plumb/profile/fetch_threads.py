"""What fetch threads gain: batches made by ever more of them, timed as a worker would make them."""

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

from plumb.errors import one_line
from plumb.profile.memory import Grown
from plumb.profile.threads import one_torch_thread, reading_threads

THREADS = (4, 16, 64)
_BATCHES_AT_MOST = 12
# Some samples are slow where times have such a standard deviation, as a share of their mean.
_ERRATIC = 1.0
# So many samples are drawn to see what a batch takes as a rule.
_DRAWN = 20_000


@dataclass(frozen=True)
class ThreadsGain:
    """How many times as long as one thread so many take for a batch, how many times the CPU, and what each holds.

    `crowded_time_factor` is the first where they have one core between them. The CPU is less than that of one thread
    where this one waits: a core that is never idle need not be woken up, and has all in its caches.
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
    """Seconds per sample: by the clock, and of CPU. `batches` are the seconds of every single one, batch by batch."""

    wall: float
    cpu: float
    batches: list[list[float]]


@dataclass(frozen=True)
class _Seen:
    """What so many threads spent on batches, with all cores and with one, and the bytes that each of them held."""

    threads: int
    free: _Spent
    crowded: _Spent
    thread_bytes: float


def timed_threads(
    read: Callable[[Any], Any],
    indices: Sequence[Any],
    samples_per_batch: int,
    alone_seconds: float,
    alone_cpu_seconds: float,
    budget_seconds: float,
) -> ThreadsTimed:
    """What 4, 16 and 64 threads gain over one, which takes `alone_seconds` for a sample, of which it computes so many.

    Times batches of what `read` gives for `indices`, those of one thread too, within about `budget_seconds` in all. A
    count that would take longer than its share, or is larger than a batch, is left out. A batch is done when its
    slowest sample is, as in a worker. Where samples mostly wait, and a few of them very long, some count meets one of
    these, and another none: then each is told what batches take of the samples that all have met. One thread has to
    meet some, too: many that stand in line for a lock are slow now and then because of each other.
    """
    ahead = cycle(indices)
    counts = [count for count in THREADS if count <= samples_per_batch]
    # The fewer there are, the more time each has: what takes longest, the fewest threads, is left out first.
    while counts and samples_per_batch * alone_seconds / counts[0] >= _share(budget_seconds, counts) / 3:
        del counts[0]
    if not counts:
        return ThreadsTimed(alone_cpu_seconds)
    share = _share(budget_seconds, counts)
    seen: list[_Seen] = []
    at_once, grown, timed, reason = 1, Grown(), _timed(read), ""
    waits = 2 * alone_cpu_seconds < alone_seconds
    try:
        few = min(samples_per_batch, math.ceil(share / 2 / max(alone_seconds, 1e-9)))
        with one_torch_thread():
            # What is opened once is opened now.
            read(next(ahead))
            # As it is read without any threads: what it takes to hand samples to them is part of their time.
            alone = _spent_alone(timed, ahead, few, share / 2)
        for at_once in counts:
            spent = _spent_by_threads(at_once, timed, ahead, samples_per_batch, share / 3)
            with _on_one_core():
                # As where other workers keep the rest busy: threads that take turns spend less on who is next.
                crowded = _spent_by_threads(at_once, timed, ahead, samples_per_batch, share / 3)
            # What each needs at the same time, and what their allocator keeps for it.
            seen.append(_Seen(at_once, spent, crowded, grown.bytes() / at_once))
        if waits and _is_erratic(_threaded(seen)) and not _is_erratic([alone]):
            # Whether threads hinder each other, or one of them met too few samples to see a slow one.
            at_once = 1
            with one_torch_thread():
                alone = _spent_alone(timed, ahead, few, share)
    except Exception as error:
        reason = f"{at_once} at once fail: {one_line(error)}"
    if not seen:
        return ThreadsTimed(alone_cpu_seconds, reason=reason)
    return ThreadsTimed(alone.cpu, _gains(alone, seen, samples_per_batch, waits), reason)


def _gains(alone: _Spent, seen: Sequence[_Seen], samples: int, waits: bool) -> tuple[ThreadsGain, ...]:
    """What each count gains over one thread, in batches of so many samples."""
    batches = _drawn(_spread([alone, *_threaded(seen)]), samples) if waits and _is_erratic([alone]) else None

    def walls(threads: int, *spent: _Spent) -> list[float]:
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


def _threaded(seen: Sequence[_Seen]) -> list[_Spent]:
    return [spent for each in seen for spent in (each.free, each.crowded)]


def _is_erratic(spent: Sequence[_Spent]) -> bool:
    """Whether a few of the samples take much longer than the others."""
    times = _spread(spent)
    return bool(np.std(times) > _ERRATIC * np.mean(times))


def _spread(spent: Sequence[_Spent]) -> Any:
    """The times of all samples as multiples of the median among those that were read in the same way."""
    each = [list(chain.from_iterable(one.batches)) for one in spent]
    return np.concatenate([np.array(seconds) / max(statistics.median(seconds), 1e-9) for seconds in each])


def _drawn(met: Any, samples: int) -> list[list[float]]:
    """Batches of so many samples, as slow as those that were `met`."""
    drawn: list[list[float]] = np.random.default_rng(0).choice(met, (max(1, _DRAWN // samples), samples)).tolist()
    return drawn


def _as_a_rule(spent: _Spent, threads: int, expected: float) -> float:
    """Seconds per sample by the clock, had these samples taken `expected` times the median of them each, as all do."""
    usual = statistics.median(chain.from_iterable(spent.batches))
    seen = sum(_last_done(batch, threads) for batch in spent.batches) / sum(map(len, spent.batches))
    # What it takes beyond that to hand samples to threads does not hang on how slow they are.
    return usual * expected + max(0.0, spent.wall - seen)


def _last_done(seconds: Sequence[float], threads: int) -> float:
    """When the last sample is done, where each goes to the first thread that is free."""
    free_at = [0.0] * threads
    for each in seconds:
        heapq.heapreplace(free_at, free_at[0] + each)
    return max(free_at)


def _share(budget_seconds: float, counts: Sequence[int]) -> float:
    """The seconds for each count, one thread being another."""
    return budget_seconds / (len(counts) + 1)


def _timed(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, float]]:
    """What `read` gives, and the seconds that it took."""

    def timed(index: Any) -> tuple[Any, float]:
        begin = time.perf_counter()
        value = read(index)
        return value, time.perf_counter() - begin

    return timed


def _spent_alone(
    timed: Callable[[Any], tuple[Any, float]], ahead: Iterator[Any], samples: int, seconds: float
) -> _Spent:
    return _spent(lambda batch: list(map(timed, batch)), ahead, samples, seconds)


def _spent_by_threads(
    threads: int, timed: Callable[[Any], tuple[Any, float]], ahead: Iterator[Any], samples: int, seconds: float
) -> _Spent:
    with reading_threads(threads, timed, ahead) as pool:
        return _spent(lambda batch: list(pool.map(timed, batch)), ahead, samples, seconds)


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
    read_all: Callable[[Iterator[Any]], list[tuple[Any, float]]], ahead: Iterator[Any], samples: int, seconds: float
) -> _Spent:
    """What batches of so many samples take. Raises what `read_all` raises."""
    wall, cpu, batches = 0.0, time.process_time(), list[list[float]]()
    while len(batches) < _BATCHES_AT_MOST and (wall < seconds or not batches):
        begin = time.perf_counter()
        batches.append([spent for _, spent in read_all(islice(ahead, samples))])
        wall += time.perf_counter() - begin
    cpu = time.process_time() - cpu
    count = len(batches) * samples
    return _Spent(wall / count, cpu / count, batches)
