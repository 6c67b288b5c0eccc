"""Loaders measured by turns, their rates compared, and what the CPU alone would allow."""

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from plumb.core.config import Config
from plumb.core.plan import Rate
from plumb.model.resource_bounds import amortized
from plumb.tuning.measure.throughput import Chunk, IndexStream, MeasuredLoader, whole

# A configuration that isn't in steady state by then is given up: a server may have collapsed under it.
_PATIENCE_SECONDS = 120.0
_RESAMPLES = 2000


@dataclass(frozen=True)
class Contender:
    """A loader to measure: `make` gets the indices to read, None where the dataset is iterable."""

    name: str
    config: Config
    make: Callable[[Iterable[Any] | None], DataLoader[Any]]


@dataclass(frozen=True)
class Apart:
    """A loader that measures itself in a process of its own: `window` gives the chunks of about so many seconds."""

    name: str
    window: Callable[[float], list[Chunk]]
    config: Config = field(default_factory=Config)


class Timed:
    """Figures of chunks measured by turns, for classes with `turns` and an `error`."""

    turns: list[list[Chunk]]
    error: str

    @property
    def is_measured(self) -> bool:
        """True if a rate was measured."""
        return not self.error and bool(self.turns)

    @property
    def rate(self) -> Rate:
        """Samples per second while it runs: the median of the turns, with a bootstrap interval over them."""
        return _median(np.array(self.rates))

    @property
    def rates(self) -> list[float]:
        """Samples per second of each turn as a whole: what is rarely slow is part of a rate."""
        return [whole(chunks).samples_per_second for chunks in self.turns]


@dataclass
class Reading(Timed):
    """Measurements of one contender: the chunks of each turn, the start of its workers, and CPU per sample."""

    contender: Contender | Apart
    turns: list[list[Chunk]] = field(default_factory=list)
    start_seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    error: str = ""

    def over_an_epoch(self, samples: float) -> Rate:
        """Return samples per second over real epochs, including the start of workers that do not persist."""
        config, steady = self.contender.config, self.rate
        start = 0.0 if config.persistent_workers or not config.num_workers else median(self.start_seconds)
        low, high = (amortized(bound, samples, start) for bound in steady.interval)
        return Rate(amortized(steady.samples_per_second, samples, start), (low, high))


def by_turns(
    contenders: Sequence[Contender | Apart],
    stream: IndexStream | None,
    samples_per_batch: float,
    turns: int,
    window_seconds: float,
    at_each_turn: Callable[[], None] = lambda: None,
    patience_seconds: float = _PATIENCE_SECONDS,
    warm_up_seconds: float = 0.0,
) -> list[Reading]:
    """Measure a window of each contender in each turn, with new workers each time, so that no idle ones are around.

    `at_each_turn` is called before the contenders of a turn. Loaders whose workers last, or that have none, run for
    `warm_up_seconds` before what counts: buffers, and values of a store, are mapped once in a training. A contender
    that fails, or isn't in steady state within `patience_seconds`, is not measured again; its reading says why.
    """
    readings = [Reading(contender) for contender in contenders]
    for _ in range(turns):
        at_each_turn()
        for reading in readings:
            if not reading.error:
                _measure(reading, stream, samples_per_batch, window_seconds, patience_seconds, warm_up_seconds)
    return readings


def _measure(
    reading: Reading,
    stream: IndexStream | None,
    samples_per_batch: float,
    window_seconds: float,
    patience_seconds: float,
    warm_up_seconds: float,
) -> None:
    contender = reading.contender
    try:
        if isinstance(contender, Apart):
            chunks = contender.window(window_seconds)
        else:
            chunks = _of_feed(
                reading, contender, stream, samples_per_batch, window_seconds, patience_seconds, warm_up_seconds
            )
    except Exception as error:
        reading.error = f"{type(error).__name__}: {error}".partition("\n")[0]
        return
    if chunks:
        reading.turns.append(chunks)
    else:
        reading.error = f"no steady state within {patience_seconds:.0f} s"


def _of_feed(
    reading: Reading,
    contender: Contender,
    stream: IndexStream | None,
    samples_per_batch: float,
    window_seconds: float,
    patience_seconds: float,
    warm_up_seconds: float,
) -> list[Chunk]:
    deadline = time.perf_counter() + patience_seconds
    feed = MeasuredLoader(contender.config, contender.make, stream, samples_per_batch, deadline)
    try:
        if warm_up_seconds and (contender.config.persistent_workers or not contender.config.num_workers):
            feed.window(warm_up_seconds)
        begun = time.process_time()
        chunks = feed.window(window_seconds)
        used = feed.usage
        if chunks:
            # Without workers, nothing comes before what is counted, and threads of this process make the samples.
            in_main = used.main_cpu_seconds if feed.worker_pids else time.process_time() - begun
            reading.start_seconds.append(feed.workers_start_seconds)
            reading.cpu_seconds.append((used.worker_cpu_seconds + in_main) / used.samples)
        return chunks
    finally:
        feed.close()


def share(timed: Timed, of: Timed) -> Rate:
    """Return the rate of `timed` as a share of another's, turn by turn, with a bootstrap interval over the turns."""
    return share_by_turns(timed.rates, of.rates)


def share_by_turns(of_one: Sequence[float], of_other: Sequence[float]) -> Rate:
    """Return the median ratio of two figures measured by turns, with a bootstrap interval over the turns."""
    return _median(np.array(of_one) / np.array(of_other))


def _median(of_turns: np.ndarray) -> Rate:
    draws = np.random.default_rng(0).choice(of_turns, size=(_RESAMPLES, len(of_turns)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return Rate(float(np.median(of_turns)), (float(low), float(high)))


def best(readings: Sequence[Reading]) -> Reading:
    """Return the fastest of those that were measured. Raise ValueError if none was."""
    return max((r for r in readings if r.is_measured), key=lambda reading: reading.rate.samples_per_second)


def torch_loader(loader: DataLoader[Any], config: Config, indices: Iterable[Any] | None) -> DataLoader[Any]:
    """Torch's own loader over the same dataset, with nothing of plumb's."""
    arguments = {"collate_fn": loader.collate_fn, **config.loader_arguments()}
    if indices is None:
        return DataLoader(loader.dataset, loader.batch_size, **arguments)
    return DataLoader(loader.dataset, batch_sampler=indices, **arguments)


def torch_contender(loader: DataLoader[Any], config: Config, name: str = "") -> Contender:
    """Torch's own loader as a contender."""
    return Contender(name or f"torch, {config}", config, lambda indices: torch_loader(loader, config, indices))


def stream_of(loader: DataLoader[Any]) -> IndexStream | None:
    """Return the loader's own batches of indices, epoch after epoch; None if the dataset is iterable."""
    is_iterable = isinstance(loader.dataset, torch.utils.data.IterableDataset)
    return None if is_iterable else IndexStream(loader.batch_sampler)


def pure_cpu_seconds(loader: DataLoader[Any], seconds: float, samples_per_batch: float = 1.0) -> float:
    """Return the CPU seconds that one sample takes at best: in one process and thread, one by one, nothing kept.

    A collate of the user's own is part of the work, and so is what an iterable dataset does between samples: then whole
    batches are timed.
    """
    stream = IndexStream(loader.sampler)
    make, samples = lambda: loader.dataset[next(stream)], 1.0
    if stream_of(loader) is None or loader.collate_fn is not default_collate:
        own = torch_loader(loader, Config(), stream_of(loader))
        alone = (batch for epoch in itertools.repeat(own) for batch in epoch)
        make, samples = lambda: next(alone), samples_per_batch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        make()
        spans = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            begun = time.thread_time()
            make()
            spans.append((time.thread_time() - begun) / samples)
    finally:
        torch.set_num_threads(threads)
    # A stream may do the work of many batches before one of them, so none of its spans is left out.
    at_most = 5 * median(spans) if samples == 1.0 else np.inf
    # The mean, as samples differ in what they cost, without the few that something else disturbed.
    return float(np.mean([span for span in spans if span <= at_most]))


def differing_batches(one: Iterable[Any], other: Iterable[Any], count: int) -> int:
    """Return how many of the first `count` batches are not the same in both, bit for bit."""
    return sum(not _same(mine, theirs) for _, mine, theirs in zip(range(count), one, other, strict=False))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return len(one) == len(other) and all(_same(mine, theirs) for mine, theirs in zip(one, other, strict=True))
