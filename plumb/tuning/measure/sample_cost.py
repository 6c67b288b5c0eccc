"""Cost of one sample in the dataset's read and in the collate function, measured in the calling process."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from plumb.core.plan import SampleCost
from plumb.core.sized import index_count, length_of
from plumb.host.run_queue import queued_seconds
from plumb.host.threads import one_torch_thread
from plumb.tuning.measure.throughput import IndexStream, NoBatchesError, is_known, skipping

_TURNS_AT_LEAST = 3
_WARM_UP = 1 / 2
# Number of single batches' times that are kept to show their spread.
_BATCH_TIMES = 200


@dataclass(frozen=True)
class _Span:
    """Seconds per sample, without those in which other processes had the CPUs."""

    wall_seconds: float
    cpu_seconds: float
    other_cpu_seconds: float


@dataclass(frozen=True)
class MeasuredSamples:
    """Measured cost of samples, the times of the last batches, and the number of samples read.

    `largest_batch_bytes` is the size of the largest of the batches, and `other_cpus` the number of CPUs that the
    process's other threads kept busy meanwhile.
    """

    cost: SampleCost
    batch_seconds: tuple[float, ...]
    samples: float
    largest_batch_bytes: float
    other_cpus: float

    def made_by_threads(self, cpus: float, wait_seconds: float) -> MeasuredSamples:
        """Return the cost if the dataset's own threads compute on `cpus` CPUs while the calling thread waits for them.

        `wait_seconds` is the wait measured with torch on one thread; the calling thread waits for no longer than that.
        """
        cost = self.cost
        waiting = min(max(0.0, cost.wait_seconds - cpus * cost.wall_seconds), wait_seconds)
        told = replace(cost, cpu_seconds=cost.wall_seconds - waiting, wait_seconds=waiting)
        return replace(self, cost=told, other_cpus=cpus)


def measure_samples(
    loader: DataLoader[Any],
    stream: IndexStream | None,
    seconds: float,
    at_most_seconds: float | None = None,
    skips: tuple[type[Exception], ...] = (),
) -> MeasuredSamples:
    """Read and collate samples for about `seconds`, in this thread, as a loader without workers does.

    The first half of `seconds` is discarded: files are opened then, caches filled, and torch's threads spread over the
    cores. Costs are per sample; `main_seconds`, the handover from a worker, can't be measured here and is 0.

    Args:
        loader: Loader to read from.
        stream: Indices to read; None for an iterable dataset.
        seconds: Time to measure.
        at_most_seconds: Time to measure at most if the cost per sample is still uncertain; None never extends.
        skips: Errors of the dataset to go on after, as the user's loop does.

    Raises:
        Exception: What the dataset raises, except errors in `skips`.

    """
    spans: list[_Span] = []
    size, read_samples = 1.0, 0.0
    all_bytes, all_tensors, largest = 0.0, 0.0, 0.0
    read = _reader(loader, stream, skips)
    started, warm_ups = time.perf_counter(), 1
    while not spans or _goes_on(spans[warm_ups:], time.perf_counter() - started, seconds, at_most_seconds):
        queued, begin = queued_seconds(), (time.perf_counter(), time.thread_time(), time.process_time())
        batch, size = next(read)
        wall, cpu = time.perf_counter() - begin[0], time.thread_time() - begin[1]
        others = max(0.0, time.process_time() - begin[2] - cpu)
        wall = max(wall - (queued_seconds() - queued), cpu)
        nbytes, tensors = batch_bytes(batch)
        all_bytes, all_tensors, largest = all_bytes + nbytes, all_tensors + tensors, max(largest, nbytes)
        spans.append(_Span(wall / size, cpu / size, others / size))
        read_samples += size
        if time.perf_counter() - started < _WARM_UP * seconds:
            warm_ups = len(spans)
    spans = spans[warm_ups:] or spans[-1:]
    cpu = statistics.fmean(min(span.cpu_seconds, span.wall_seconds) for span in spans)
    wait = _wait_seconds(spans, cpu)
    cost = SampleCost(cpu + wait, cpu, wait, 0.0, all_bytes / read_samples, all_tensors / read_samples)
    others = sum(span.other_cpu_seconds for span in spans) / max(sum(span.wall_seconds for span in spans), 1e-9)
    batch_seconds = tuple(span.wall_seconds * size for span in spans[-_BATCH_TIMES:])
    return MeasuredSamples(cost, batch_seconds, read_samples, largest, others)


def _goes_on(spans: list[_Span], seconds: float, at_least: float, at_most: float | None) -> bool:
    if seconds < at_least or at_most is None:
        return seconds < at_least
    return seconds < at_most and not is_known([span.wall_seconds for span in spans])


def _wait_seconds(spans: list[_Span], cpu_seconds: float) -> float:
    """Return the seconds that a sample waits.

    If waiting is most of its time, its source is slow now and then, and the mean counts; otherwise the host was busy
    with something else at times, and the median does.
    """
    waits = [max(0.0, span.wall_seconds - span.cpu_seconds) for span in spans]
    mean = statistics.fmean(waits)
    return mean if mean > cpu_seconds else statistics.median(waits)


def measure_samples_without_torch_threads(
    loader: DataLoader[Any],
    stream: IndexStream | None,
    seconds: float,
    at_most_seconds: float | None = None,
    skips: tuple[type[Exception], ...] = (),
) -> MeasuredSamples:
    """Measure like `measure_samples` with torch on one thread, as in a worker process.

    `other_cpus` then counts only threads of other libraries, such as OpenCV or linear algebra; worker processes may
    have as many of these.
    """
    with one_torch_thread():
        return measure_samples(loader, stream, seconds, at_most_seconds, skips)


def without_failing(loader: DataLoader[Any], indices: Sequence[Any], errors: tuple[type[Exception], ...]) -> list[Any]:
    """Return the indices whose samples don't raise one of `errors`; each sample is loaded once for this."""
    good = []
    for index in indices:
        with contextlib.suppress(*errors):
            loader.dataset[index]
            good.append(index)
    return good


def torch_threads_speedup(
    loader: DataLoader[Any], stream: IndexStream | None, seconds: float, skips: tuple[type[Exception], ...] = ()
) -> float:
    """Return how many times as fast batches are made with all of torch's threads, interleaved for about `seconds`.

    Args:
        loader: Loader to read from.
        stream: Indices to read; None for an iterable dataset.
        seconds: Time to measure; each side is measured a few times at least.
        skips: Errors of the dataset to go on after.

    """
    read = _reader(loader, stream, skips)
    one: list[float] = []
    all_threads: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(one) < _TURNS_AT_LEAST or time.perf_counter() < deadline:
        for walls, threads in ((one, one_torch_thread()), (all_threads, contextlib.nullcontext())):
            with threads:
                begin = time.perf_counter()
                _, size = next(read)
                walls.append((time.perf_counter() - begin) / size)
    return statistics.median(one) / max(statistics.median(all_threads), 1e-9)


def batch_bytes(batch: Any) -> tuple[int, int]:
    """Return the bytes of all tensors in a batch of any structure, and the number of these tensors."""
    tensors = [leaf for leaf in leaves(batch) if isinstance(leaf, torch.Tensor)]
    return sum(tensor.element_size() * tensor.nelement() for tensor in tensors), len(tensors)


def leaves(batch: Any) -> Iterator[Any]:
    """Yield the leaves of nested dictionaries, sequences, dataclasses and other objects with attributes.

    An object inside itself, as nodes with parents have, is visited once.
    """
    yield from _leaves(batch, frozenset())


def _leaves(value: Any, around: frozenset[int]) -> Iterator[Any]:
    if isinstance(value, dict):
        inner: Any = value.values()
    elif isinstance(value, (list, tuple)):
        inner = value
    elif hasattr(value, "__dict__") and not isinstance(value, torch.Tensor):
        inner = (vars(value),)
    else:
        yield value
        return
    if id(value) not in around:
        around |= {id(value)}
        for each in inner:
            yield from _leaves(each, around)


def samples_in(batch: Any) -> int:
    """Return the number of samples in a batch of unknown size: its first tensor's first dimension, else its length.

    With a plain number beside a tensor, as a label beside an image, it is one sample.
    """
    if isinstance(batch, (list, tuple)) and any(_is_number(each) for each in batch):
        return 1 if any(isinstance(each, torch.Tensor) for each in batch) else len(batch)
    for leaf in leaves(batch):
        if isinstance(leaf, torch.Tensor) and leaf.dim():
            return leaf.size(0)
    return len(batch) if isinstance(batch, (list, tuple)) else 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, torch.Tensor) and not value.dim())


def _reader(
    loader: DataLoader[Any], stream: IndexStream | None, skips: tuple[type[Exception], ...]
) -> Iterator[tuple[Any, float]]:
    """Yield batches and their sizes, made as a worker makes them."""
    dataset, collate = loader.dataset, loader.collate_fn
    if stream is None:
        yield from _iterable_batches(loader, skips)
        return
    fetch_many: Callable[[Any], Any] | None = getattr(dataset, "__getitems__", None)

    def read() -> tuple[Any, float]:
        indices = next(stream)
        if loader.batch_sampler is None:
            batch = collate(dataset[indices])
            return batch, float(index_count(indices, is_batch=False) or samples_in(batch) or 1)
        samples = fetch_many(indices) if fetch_many else [dataset[index] for index in indices]
        return collate(samples), float(length_of(indices) or 1)

    while True:
        yield skipping(read, skips)


def _iterable_batches(loader: DataLoader[Any], skips: tuple[type[Exception], ...]) -> Iterator[tuple[Any, float]]:
    dataset = loader.dataset
    assert isinstance(dataset, IterableDataset)
    has_batches = True
    while has_batches:
        has_batches, batch = False, []
        for sample in _until(dataset, skips):
            if loader.batch_size is None:
                has_batches, converted = True, loader.collate_fn(sample)
                yield converted, float(samples_in(converted) or 1)
                continue
            batch.append(sample)
            if len(batch) == loader.batch_size:
                has_batches = True
                yield loader.collate_fn(batch), float(len(batch))
                batch = []
        if batch and not has_batches and not loader.drop_last:
            has_batches = True
            yield loader.collate_fn(batch), float(len(batch))
    raise NoBatchesError("the dataset has no more batches")


def _until(samples: Iterable[Any], errors: tuple[type[Exception], ...]) -> Iterator[Any]:
    """Yield `samples` up to an error of one of these classes: most streams can't go on after one."""
    with contextlib.suppress(*errors):
        yield from samples
