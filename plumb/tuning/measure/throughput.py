"""Throughput of a real loader in steady state, with an interval.

A loader that was just started, or left alone, delivers its prefetched batches faster than it can produce them. So every
window first takes all prefetched batches, and then counts whole rounds of one batch per worker. Measurements of several
loaders are interleaved (A B A B), so that drift of the machine affects all of them.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from plumb.core.config import Config
from plumb.core.errors import PlumbError
from plumb.core.plan import Rate
from plumb.core.sized import index_count
from plumb.host.malloc import malloc_reuse
from plumb.host.process_control import remove_segments
from plumb.host.process_memory import cpu_seconds
from plumb.host.run_queue import queued_seconds
from plumb.tuning.measure.trial_guard import TrialGuard

T = TypeVar("T")

CHUNK_SECONDS = 0.15
ERRORS_AT_MOST = 100
"""Largest number of consecutive samples or batches that may raise errors that the user's loop catches."""
_RESAMPLES = 1000
_FEW_CHUNKS = 4
_KNOWN = 0.03
_TURNS_AT_LEAST, _TURNS_AT_MOST = 2, 10
# Workers are idle if they use less than this share of a CPU for so long; the last value limits the wait.
_SETTLING_SECONDS, _IDLE_SHARE, _SETTLED_AT_LAST = 0.1, 0.02, 10.0
# Differences below this share (10 %) between a handful of measurements are noise.
_NOISE_OF_FEW = 0.10


class NoBatchesError(PlumbError):
    """The loader or the sampler ended without a single batch."""


@dataclass(frozen=True)
class Chunk:
    """Samples and seconds of consecutive whole rounds."""

    samples: float
    seconds: float

    @property
    def samples_per_second(self) -> float:
        """Rate within this chunk."""
        return self.samples / self.seconds


def whole(chunks: Sequence[Chunk]) -> Chunk:
    """Merge consecutive chunks into one."""
    return Chunk(sum(chunk.samples for chunk in chunks), sum(chunk.seconds for chunk in chunks))


@dataclass(frozen=True)
class Usage:
    """CPU usage of a window: seconds in the workers and in this thread, and the number of samples.

    `worker_queued_seconds` is the time in which workers were ready to run while other threads had the CPUs.
    """

    samples: float
    seconds: float
    worker_cpu_seconds: float
    main_cpu_seconds: float
    worker_queued_seconds: float = 0.0


def rate_of(chunks: Sequence[Chunk], seed: int = 0) -> Rate:
    """Return the median rate of `chunks` with its 95 % bootstrap interval, in samples per second.

    Chunks are about equally long, so they are not weighted. The interval of fewer than four is their span, widened by
    the noise of single measurements. Raises ValueError if there are none.
    """
    if not chunks:
        raise ValueError("no chunk was measured")
    rates = np.array([chunk.samples_per_second for chunk in chunks])
    if len(rates) < _FEW_CHUNKS:
        low, high = float(rates.min()) * (1 - _NOISE_OF_FEW), float(rates.max()) * (1 + _NOISE_OF_FEW)
    else:
        draws = np.random.default_rng(seed).choice(rates, size=(_RESAMPLES, len(rates)))
        low, high = (float(bound) for bound in np.percentile(np.median(draws, axis=1), [2.5, 97.5]))
    return Rate(float(np.median(rates)), (low, high))


class IndexStream:
    """The script's own index batches, epoch after epoch, so that every trial reads new ones.

    With `is_batches=False`, items may be single indices from which the dataset makes batches. Raises NoBatchesError if
    the sampler has none, or none any more.
    """

    def __init__(self, sampler: Iterable[Any], is_batches: bool = True) -> None:
        self.is_batches = is_batches
        self._sampler = sampler
        self._epoch = iter(sampler)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._epoch)
        except StopIteration:
            self._epoch = iter(self._sampler)
            try:
                return next(self._epoch)
            except StopIteration:
                raise NoBatchesError("the sampler has no more batches") from None

    def some(self, batches: int, samples: int) -> list[Any]:
        """Return the indices of up to `batches` batches, and of no further one once there are `samples` indices.

        Stops at a batch that is not a sequence of indices. Raises NoBatchesError as iteration does.
        """
        indices: list[Any] = []
        for batch in islice(self, batches):
            if not isinstance(batch, Sequence):
                break
            indices += batch
            if len(indices) >= samples:
                break
        return indices


def skipping(read: Callable[[], T], skips: tuple[type[Exception], ...], skipped: Callable[[], object] = list) -> T:
    """Return the result of `read`, repeated after errors in `skips`, with `skipped` called after each of these."""
    for _ in range(ERRORS_AT_MOST):
        with contextlib.suppress(*skips):
            return read()
        skipped()
    return read()


class SizedIndices:
    """One loader's view of an IndexStream that stores the number of samples of each batch that was read.

    A batch that the dataset makes from a single index counts as `samples_per_batch`.
    """

    def __init__(self, stream: IndexStream, samples_per_batch: float = 1.0) -> None:
        self._stream = stream
        self._samples_per_batch = samples_per_batch
        self._sizes: deque[float] = deque()

    def __iter__(self) -> Iterator[Any]:
        while True:
            indices = next(self._stream)
            self._sizes.append(index_count(indices, self._stream.is_batches) or self._samples_per_batch)
            yield indices

    def next_size(self) -> float:
        """Return the number of samples in the next batch; loaders deliver batches in the order of their indices."""
        return self._sizes.popleft()


def is_known(seconds: Sequence[float]) -> bool:
    """Return whether the mean of these values is known: at least four, with a standard error of at most 3 %."""
    return len(seconds) >= _FEW_CHUNKS and bool(
        np.std(seconds, ddof=1) <= _KNOWN * math.sqrt(len(seconds)) * np.mean(seconds)
    )


class MeasuredLoader:
    """Running loader with one configuration, measured in windows.

    `make_loader` gets the indices to read, or None for an iterable dataset, whose batches count as `samples_per_batch`
    samples each. Workers start at construction, watched by `guard` if there is one. `samples` counts all samples read,
    `first_chunk` is the first batch including the workers' start, `main_start_seconds` is this process's time to start
    them, and `is_broken` is true once the loader has raised. Raises the loader's errors except those in `skips`, which
    the user's loop skips, and TrialEndedError if the guard ended the trial.
    """

    def __init__(
        self,
        config: Config,
        make_loader: Callable[[Iterable[Any] | None], Iterable[Any]],
        stream: IndexStream | None,
        samples_per_batch: float,
        deadline: float,
        guard: TrialGuard | None = None,
        skips: tuple[type[Exception], ...] = (),
        waits: bool = False,
    ) -> None:
        self.config = config
        self.deadline = deadline
        self.is_broken = False
        self._guard = guard
        self._waits = waits
        self._is_settled = False
        self._indices = SizedIndices(stream, samples_per_batch) if stream is not None else None
        self._skips = skips
        self._samples_per_batch = samples_per_batch
        self._started = time.perf_counter()
        self.samples = 0.0
        self.worker_pids: tuple[int, ...] = ()
        self._loader = make_loader(self._indices)
        begin = time.perf_counter()
        self._batches = self._begun()
        # Unlike the first batch's excess over later ones, this time certainly belongs to the start of the workers.
        self.main_start_seconds = time.perf_counter() - begin if config.num_workers else 0.0
        try:
            first = self._take()
        except BaseException:
            self.close()
            raise
        self.first_chunk = Chunk(first, time.perf_counter() - self._started)
        self._round_seconds = self.first_chunk.seconds
        self.usage = Usage(0.0, 0.0, 0.0, 0.0)
        self._ready = max(config.batches_in_flight - 1, 0)

    @property
    def workers_start_seconds(self) -> float:
        """Seconds that the workers' start added to the first round; every epoch takes them unless workers persist."""
        if not self.config.num_workers:
            return 0.0
        return max(self.main_start_seconds, self.first_chunk.seconds - self._round_seconds)

    def window(
        self,
        seconds: float,
        hopeless: Callable[[Sequence[Chunk]], bool] | None = None,
        too_slow: Callable[[float, float], bool] | None = None,
    ) -> list[Chunk]:
        """Measure about `seconds` of steady state, at least one chunk, without prefetched batches; sets `usage`.

        Args:
            seconds: Length of the window.
            hopeless: Called with the chunks so far; True ends the window early.
            too_slow: Called with the samples and the seconds since the start, before steady state; True ends the
                window.

        Returns:
            Chunks of whole rounds; none if the deadline comes, or `too_slow` returns True, before steady state.
        """
        with malloc_reuse(self.config.allocator_reuse):
            return self._window(seconds, hopeless, too_slow)

    def _window(
        self,
        seconds: float,
        hopeless: Callable[[Sequence[Chunk]], bool] | None,
        too_slow: Callable[[float, float], bool] | None,
    ) -> list[Chunk]:
        for _ in range(self._ready):
            now = time.perf_counter()
            if now > self.deadline or (too_slow and too_slow(self.samples, now - self._started)):
                return []
            self._take()
        chunks: list[Chunk] = []
        per_round = max(self.config.num_workers, 1)
        rounds, samples = 0, 0.0
        workers_before, main_before = cpu_seconds(self.worker_pids), time.thread_time()
        queued_before = self._queued_seconds()
        begin = chunk_begin = time.perf_counter()
        while True:
            samples += sum(self._take() for _ in range(per_round))
            rounds += 1
            now = time.perf_counter()
            if now - chunk_begin >= CHUNK_SECONDS or now >= self.deadline:
                chunks.append(Chunk(samples, now - chunk_begin))
                chunk_begin, samples = now, 0.0
                if now - begin >= seconds or now >= self.deadline or (hopeless and hopeless(chunks)):
                    break
        self._round_seconds = (now - begin) / rounds
        self.usage = Usage(
            sum(chunk.samples for chunk in chunks),
            now - begin,
            cpu_seconds(self.worker_pids) - workers_before,
            time.thread_time() - main_before,
            self._queued_seconds() - queued_before,
        )
        self._ready = self.config.batches_in_flight
        return chunks

    def _queued_seconds(self) -> float:
        return sum(map(queued_seconds, self.worker_pids))

    def settle(self) -> None:
        """Wait until the workers finish their prefetched batches, so that they don't slow down the next loader.

        Workers that use hardly any CPU have finished, unless they mostly wait for samples. Those get all the time that
        their batches may take, so that no two loaders read from one source at the same time.
        """
        if self._is_settled:
            return
        self._is_settled = True
        until = time.perf_counter() + min(self._round_seconds * (self.config.prefetch_factor or 0), _SETTLED_AT_LAST)
        before = cpu_seconds(self.worker_pids)
        while time.perf_counter() < until:
            time.sleep(_SETTLING_SECONDS)
            now = cpu_seconds(self.worker_pids)
            if not self._waits and now - before < _IDLE_SHARE * _SETTLING_SECONDS:
                return
            before = now

    def close(self) -> None:
        """End the workers."""
        if self._guard is not None:
            self._guard.stop()
        shutdown = getattr(self._batches, "_shutdown_workers", None)
        if shutdown is None:
            return
        if self.is_broken:
            # A dead worker may have held a lock that the others need to end; torch would wait seconds for each of them.
            for child in multiprocessing.active_children():
                if child.pid in self.worker_pids:
                    with contextlib.suppress(RuntimeError):
                        child.kill()
        try:
            shutdown()
        except RuntimeError:
            # Torch's SIGCHLD handler raises in the main thread, at any point, when a worker was killed.
            if not self.is_broken and (self._guard is None or self._guard.ended is None):
                raise
        if self.is_broken:
            remove_segments(self.worker_pids)

    def _begun(self) -> Iterator[Any]:
        """Start an epoch and return its iterator; from then on the guard watches the workers that it started."""
        others = set(multiprocessing.active_children())
        with contextlib.nullcontext() if self._guard is None else self._guard.forking():
            batches = iter(self._loader)
        started = (child.pid for child in multiprocessing.active_children() if child not in others)
        self.worker_pids = tuple(pid for pid in started if pid is not None) or self.worker_pids
        if self._guard is not None:
            self._guard.watch(self.worker_pids)
        return batches

    def _take(self) -> float:
        self._is_settled = False
        if self._guard is not None:
            self._guard.waiting()
        try:
            skipping(self._next, self._skips, self._skipped)
            if self._guard is not None:
                self._guard.note_batch()
        except Exception:
            self.is_broken = True
            if self._guard is not None:
                self._guard.check()
            raise
        size = self._indices.next_size() if self._indices is not None else self._samples_per_batch
        self.samples += size
        return size

    def _skipped(self) -> None:
        alive = {child.pid for child in multiprocessing.active_children()}
        if not alive.issuperset(self.worker_pids):
            raise RuntimeError("a worker has ended by itself")
        if self._indices is not None:
            self._indices.next_size()

    def _next(self) -> None:
        try:
            next(self._batches)
        except StopIteration:
            self._batches = self._begun()
            try:
                next(self._batches)
            except StopIteration:
                raise NoBatchesError("the loader has no batches") from None


def interleaved(
    loaders: Sequence[MeasuredLoader], seconds: float, settled: Callable[[Sequence[Sequence[Chunk]], int], bool]
) -> list[list[Chunk]]:
    """Measure the loaders in turns of windows of about `seconds`, until `settled` returns True; return their chunks.

    Each window is one chunk, so that periodic effects inside it (garbage collection) average out. `settled` gets the
    chunks so far, per loader, and the number of turns: at least two, at most ten, none after the first loader's
    deadline.
    """
    chunks: list[list[Chunk]] = [[] for _ in loaders]
    # The workers were just started and fill their prefetch queues, which would slow down the first turn.
    for loader in loaders:
        loader.settle()
    for turn in range(_TURNS_AT_MOST):
        if turn >= _TURNS_AT_LEAST and (settled(chunks, turn) or time.perf_counter() > loaders[0].deadline):
            break
        for loader, its_chunks in zip(loaders, chunks, strict=True):
            window = loader.window(seconds)
            if window:
                its_chunks.append(whole(window))
            loader.settle()
    return chunks
