"""The throughput of a real loader in steady state, with an interval.

A loader that has just been started, or that was left alone for a moment, hands over what it had prefetched faster than
it can produce. So every window first takes everything that may have been prefetched, and then counts whole rounds of
one batch per worker. Loaders are compared by turns (A B A B), so that drift of the machine hits all of them.
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

from plumb.config import Config
from plumb.lengths import index_count
from plumb.plan import Rate
from plumb.processes import remove_segments
from plumb.profile.memory import cpu_seconds
from plumb.profile.queued import queued_seconds
from plumb.runtime.allocator import reusing
from plumb.search.guard import Guard

T = TypeVar("T")

CHUNK_SECONDS = 0.15
ERRORS_AT_MOST = 100
"""How many samples or batches in a row may raise what the user's loop catches."""

_RESAMPLES = 1000
_FEW_CHUNKS = 4
_KNOWN = 0.03
_TURNS_AT_LEAST, _TURNS_AT_MOST = 2, 10
# Workers that burn hardly any CPU for so long are taken for idle, and none is waited for longer than this.
_SETTLING_SECONDS, _IDLE_SHARE, _SETTLED_AT_LAST = 0.1, 0.02, 10.0
# A difference below this share is nothing when it comes from a handful of readings (section 6 of the design).
_NOISE_OF_FEW = 0.10


class NoBatchesError(Exception):
    """The loader came to its end without a single batch."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive whole rounds: how many samples came in how many seconds."""

    samples: float
    seconds: float

    @property
    def samples_per_second(self) -> float:
        """The rate within this chunk."""
        return self.samples / self.seconds


def whole(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks that follow one another as a single one."""
    return Chunk(sum(chunk.samples for chunk in chunks), sum(chunk.seconds for chunk in chunks))


@dataclass(frozen=True)
class Usage:
    """What a window took of the CPU: seconds in the workers and in this thread, for how many samples.

    `worker_queued_seconds` are those in which workers were ready to run, and others had the CPUs.
    """

    samples: float
    seconds: float
    worker_cpu_seconds: float
    main_cpu_seconds: float
    worker_queued_seconds: float = 0.0


def rate_of(chunks: Sequence[Chunk], seed: int = 0) -> Rate:
    """The median rate of `chunks` with its 95 % bootstrap interval, samples per second.

    The median is weighted by nothing: chunks are about equally long. Fewer than four chunks can't be resampled to any
    purpose; their interval is their span, widened by the noise of single readings. Raises ValueError without chunks.
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
    """The script's own index batches, epoch after epoch: every trial draws fresh ones.

    With `is_batches=False` what comes may be single indices, of which the dataset makes batches by itself. Raises
    NoBatchesError when the sampler has none, or none any more.
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
        """The indices of the next batches: of no more than so many, and no further than to so many samples.

        Empty where a batch is not a sequence of indices. Raises NoBatchesError as iteration does.
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
    """Return what `read` returns, called again where it raises one of `skips`; `skipped` is called in between."""
    for _ in range(ERRORS_AT_MOST):
        with contextlib.suppress(*skips):
            return read()
        skipped()
    return read()


class SizedIndices:
    """One loader's view of an IndexStream; remembers how many samples each batch that it handed out holds.

    Where the dataset makes a batch of a single index, that holds `samples_per_batch`.
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
        """Samples in the next batch delivered; batches come in the order in which they were asked for."""
        return self._sizes.popleft()


def is_known(seconds: Sequence[float]) -> bool:
    """Whether the mean of so many readings of the same is known well enough: to 3 %, its standard error."""
    return len(seconds) >= _FEW_CHUNKS and bool(
        np.std(seconds, ddof=1) <= _KNOWN * math.sqrt(len(seconds)) * np.mean(seconds)
    )


class Feed:
    """A running loader with one configuration, measured a window at a time.

    `make_loader` gets the indices to read, or None for an iterable dataset, whose batches are taken as
    `samples_per_batch` samples each. Workers start at construction, watched by `guard` if there is one. `samples`
    counts all that came, `first_chunk` is the first batch, with the start of workers in it, `main_start_seconds` what
    starting them took in this process, and `is_broken` says that the loader has raised. Raises what the loader raises,
    but for errors in `skips`, which the user's loop goes on after, and TrialEndedError where the guard ended it.
    """

    def __init__(
        self,
        config: Config,
        make_loader: Callable[[Iterable[Any] | None], Iterable[Any]],
        stream: IndexStream | None,
        samples_per_batch: float,
        deadline: float,
        guard: Guard | None = None,
        skips: tuple[type[Exception], ...] = (),
    ) -> None:
        self.config = config
        self.deadline = deadline
        self.is_broken = False
        self._guard = guard
        self._indices = SizedIndices(stream, samples_per_batch) if stream is not None else None
        self._skips = skips
        self._samples_per_batch = samples_per_batch
        self._started = time.perf_counter()
        self.samples = 0.0
        self.worker_pids: tuple[int, ...] = ()
        self._loader = make_loader(self._indices)
        begin = time.perf_counter()
        self._batches = self._begun()
        # However long the first batch took compared with later ones, this was spent on nothing but the start.
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
        """What starting the workers added to the first round, and what every epoch pays where they do not persist."""
        if not self.config.num_workers:
            return 0.0
        return max(self.main_start_seconds, self.first_chunk.seconds - self._round_seconds)

    def window(
        self,
        seconds: float,
        hopeless: Callable[[Sequence[Chunk]], bool] | None = None,
        too_slow: Callable[[float, float], bool] | None = None,
    ) -> list[Chunk]:
        """Chunks of whole rounds over about `seconds` of steady state; at least one, even where it takes longer.

        None where the deadline comes before steady state does, or `too_slow` says so of the samples and the seconds
        since the start: prefetched batches are never counted. Ends early once `hopeless` says so of the chunks so far.
        `usage` is this window's afterwards.
        """
        with reusing(self.config.allocator_reuse):
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
        """Lets the workers finish what they have been asked for, so that the next loader has the host to itself."""
        until = time.perf_counter() + min(self._round_seconds * (self.config.prefetch_factor or 0), _SETTLED_AT_LAST)
        before = cpu_seconds(self.worker_pids)
        while time.perf_counter() < until:
            time.sleep(_SETTLING_SECONDS)
            now = cpu_seconds(self.worker_pids)
            if now - before < _IDLE_SHARE * _SETTLING_SECONDS:
                return
            before = now

    def close(self) -> None:
        """Ends the workers."""
        if self._guard is not None:
            self._guard.stop()
        shutdown = getattr(self._batches, "_shutdown_workers", None)
        if shutdown is None:
            return
        if self.is_broken:
            # One may have died with a lock that the others need for going: torch waits seconds for each of them.
            for child in multiprocessing.active_children():
                if child.pid in self.worker_pids:
                    with contextlib.suppress(RuntimeError):
                        child.kill()
        try:
            shutdown()
        except RuntimeError:
            # Torch says so, wherever the main thread happens to be, when a worker has been killed.
            if not self.is_broken and (self._guard is None or self._guard.ended is None):
                raise
        if self.is_broken:
            remove_segments(self.worker_pids)

    def _begun(self) -> Iterator[Any]:
        """A new epoch; where it starts workers, these are watched from now on."""
        others = set(multiprocessing.active_children())
        with contextlib.nullcontext() if self._guard is None else self._guard.forking():
            batches = iter(self._loader)
        started = (child.pid for child in multiprocessing.active_children() if child not in others)
        self.worker_pids = tuple(pid for pid in started if pid is not None) or self.worker_pids
        if self._guard is not None:
            self._guard.watch(self.worker_pids)
        return batches

    def _take(self) -> float:
        if self._guard is not None:
            self._guard.waiting()
        try:
            skipping(self._next, self._skips, self._skipped)
            if self._guard is not None:
                self._guard.heard()
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
    feeds: Sequence[Feed], seconds: float, settled: Callable[[Sequence[Sequence[Chunk]], int], bool]
) -> list[list[Chunk]]:
    """Each feed's windows of about `seconds` as one chunk each, the feeds taking turns until `settled` says that it is
    enough: what comes and goes within a window, as the collection of garbage does, is no noise.

    It is told the chunks so far, and in how many turns they were taken: at least two, at most ten, and none that would
    begin after a feed's deadline.
    """
    chunks: list[list[Chunk]] = [[] for _ in feeds]
    # All have just been started, and their workers make what is prefetched: the first turn would be less than the rest.
    for feed in feeds:
        feed.settle()
    for turn in range(_TURNS_AT_MOST):
        if turn >= _TURNS_AT_LEAST and (settled(chunks, turn) or time.perf_counter() > feeds[0].deadline):
            break
        for feed, its_chunks in zip(feeds, chunks, strict=True):
            window = feed.window(seconds)
            if window:
                its_chunks.append(whole(window))
            feed.settle()
    return chunks
