"""Passes of one trace: a first timing, discovery, then the operators' timing interleaved with untraced samples.

Every pass is a recorder over the same tree of calls. The first timing records all calls and shows which of them matter;
discovery follows the values that flow between these and keeps them alive; the last passes record only the chosen
operators.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Any

from plumb.host.read_counter import ReadCounter
from plumb.host.threads import one_torch_thread
from plumb.instrument.function_rewriter import Rewriter
from plumb.instrument.recorder import COLLATE, EVERYTHING, SAMPLE, Node, Recorder, Selection
from plumb.instrument.rng_state import disturb_generators, restored_generators
from plumb.tracing.dataflow_pass import Discovery
from plumb.tracing.gil_pass import LockWatch
from plumb.tracing.graph_builder import ObservedPasses, assemble
from plumb.tracing.operator_selection import Weights, choose, inner_loops, measure, select, worth_following
from plumb.tracing.pipeline import Pipeline
from plumb.tracing.sample_source import Load, SampleSource, TraceError, TraceTimeError, is_stream, source_of
from plumb.tracing.timing_pass import (
    Clock,
    Timing,
    costs,
    recording_overhead_seconds,
    time_call,
    without_slowest,
)

WARM_UP_UNITS = 2
FEWEST_UNITS = 3
PASSES = 8
AFFORDED_SECONDS = 20.0
TIMED_SECONDS = 1.0
WATCHED_SECONDS = 0.3
# Largest shares of the time left until the deadline.
TIMED_SHARE, WATCHED_SHARE = 0.5, 0.2
MOST_ROUNDS = 8
COMPARED_UNITS = 4

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class TracedPipeline:
    """A pipeline with what it was assembled from: the source that was read and the results of the passes."""

    pipeline: Pipeline
    source: SampleSource
    observed: ObservedPasses


def trace(
    dataset_or_loader: Any,
    samples: int,
    indices: Sequence[Any] | None = None,
    collate_fn: Collate | None = None,
    batch_size: int | None = None,
    deadline: float = math.inf,
) -> TracedPipeline:
    """Trace like `plumb.trace`, and also return what the pipeline was assembled from.

    Args:
        dataset_or_loader: See `plumb.trace`, also for the next four.
        samples: Largest number of samples.
        indices: Indices of the samples, or None.
        collate_fn: Collate function, or None.
        batch_size: Number of samples to collate at once, or None.
        deadline: Latest time in `time.perf_counter` seconds, checked after each sample.

    Raises:
        TraceTimeError: The deadline passed.
        TraceError: The dataset can't be traced.

    """
    dataset, collate, batch_samples = _taken_apart(dataset_or_loader, samples, collate_fn, batch_size)
    if indices is None:
        indices = _keys(dataset_or_loader, samples)
    source = source_of(dataset, samples, indices, batch_samples or 1)
    with restored_generators(), one_torch_thread(), ReadCounter() as reads:
        trace_passes = TracePasses(source, collate, batch_samples, deadline)
        units = trace_passes.warm_up(max(1, min(samples, source.samples) // source.unit_samples))
        if collate_fn is None and dataset is dataset_or_loader:
            trace_passes.drop_collate_where_it_fails(units)
        units, weights = trace_passes.first_timing(units)
        discovery = trace_passes.discover(units, weights, reads)
        readers = {node for node, facts in discovery.facts.items() if facts.read_bytes or facts.opens}
        operators = choose(trace_passes.root, weights, readers)
        selection = select(operators, whole=True)
        watch = trace_passes.watch_lock(units, selection)
        timings = trace_passes.time(units, selection)
        counts_reads = reads.counts
    observed = ObservedPasses(
        root=trace_passes.root,
        operators=operators,
        discovery=discovery,
        costs=costs(timings.recorded, source.unit_samples)
        | costs(timings.recorded_batches, trace_passes.batch_samples),
        free_share=watch.free_share,
        counts_reads=counts_reads,
        units=units,
        unit_samples=source.unit_samples,
        batch_samples=trace_passes.batch_samples,
    )
    wall, cpu, wait = timings.plain_per_sample(source.unit_samples, trace_passes.batch_samples)
    pipeline = Pipeline(
        graph=assemble(observed),
        dataset=type(dataset).__name__,
        samples=units * source.unit_samples,
        batch_size=trace_passes.batch_samples if trace_passes.batched else None,
        sample_seconds=wall,
        sample_cpu_seconds=cpu,
        sample_wait_seconds=wait,
    )
    return TracedPipeline(pipeline, source, observed)


def _taken_apart(
    given: Any, samples: int, collate_fn: Collate | None, batch_size: int | None
) -> tuple[Any, Collate | None, int | None]:
    """Return the dataset, the collate function, and the samples per collate call (None without batching)."""
    if all(hasattr(given, name) for name in ("dataset", "collate_fn", "batch_sampler")):
        batch_sampler = given.batch_sampler
        size = batch_size or given.batch_size or getattr(batch_sampler, "batch_size", None)
        if size is None and batch_sampler is not None:
            size = samples
        return given.dataset, collate_fn or given.collate_fn, None if size is None else min(size, samples)
    if collate_fn is None:
        from torch.utils.data import default_collate

        collate_fn = default_collate
    return given, collate_fn, min(batch_size or samples, samples)


def _keys(given: Any, samples: int) -> list[Any] | None:
    """Return the first keys from a loader's own sampler, because a dataset need not be indexed by numbers.

    Returns None if the sampler is one of torch's, if the dataset is a stream, or if the sampler raises.
    """
    samplers: list[Any] = [getattr(given, name, None) for name in ("batch_sampler", "sampler")]
    own = [each for each in samplers if each is not None and not type(each).__module__.startswith("torch.utils.data")]
    if not own or is_stream(given.dataset):
        return None
    try:
        keys = chain.from_iterable(own[0]) if own[0] is samplers[0] else iter(own[0])
        return list(islice(keys, samples))
    except Exception:
        return None


@dataclass
class Timings:
    """Clocks of recorded and of plain units (samples or groups of samples) and batches, measured interleaved."""

    recorded: list[dict[Node, Clock]] = field(default_factory=list)
    recorded_batches: list[dict[Node, Clock]] = field(default_factory=list)
    plain: list[Clock] = field(default_factory=list)
    plain_batches: list[Clock] = field(default_factory=list)

    def plain_per_sample(self, unit_samples: int, batch_samples: int) -> tuple[float, float, float]:
        """Return wall, CPU and wait seconds of one untraced sample, including its share of collating."""
        cpu = wait = 0.0
        for clocks, samples in ((self.plain, unit_samples), (self.plain_batches, batch_samples)):
            kept = without_slowest(clocks, lambda clock: clock.wall_seconds)
            cpu += sum(clock.cpu for clock in kept) / 1e9 / max(1, len(kept)) / samples
            wait += sum(clock.wait for clock in kept) / 1e9 / max(1, len(kept)) / samples
        return cpu + wait, cpu, wait


class TracePasses:
    """Passes over one source. Batches are cut from the samples of a pass in the order in which they were loaded."""

    def __init__(
        self, source: SampleSource, collate: Collate | None, batch_samples: int | None, deadline: float = math.inf
    ) -> None:
        self.source = source
        self.collate = collate
        self.batched = batch_samples is not None
        self.batch_samples = batch_samples or 1
        self.root = Node(None, SAMPLE, "sample", "")
        self.rewriter = Rewriter()
        self.overhead_seconds = recording_overhead_seconds()
        self.deadline = deadline

    def drop_collate_where_it_fails(self, units: int) -> None:
        """Turn collating off if it raises; used for a dataset without a loader, whose samples may not be batchable."""
        samples = [sample for unit in self._loaded(None, units) for sample in unit]
        try:
            self._collate(None, samples[: self.batch_samples])
        except Exception:
            self.collate = None

    def warm_up(self, units: int) -> int:
        """Load a few units to get one-time work done; return how many units the passes can afford, up to `units`."""
        clocks = [clock for _, clock in self._timed_loads(None, min(units, WARM_UP_UNITS))]
        if not clocks:
            raise TraceError("The dataset is empty: there is no sample to trace.")
        affordable = int(AFFORDED_SECONDS / PASSES / max(clocks[-1].wall_seconds, 1e-9))
        return min(units, max(affordable, FEWEST_UNITS))

    def first_timing(self, units: int) -> tuple[int, Weights]:
        """Time all calls; return the number of units loaded (up to `units`) and each node's share of a sample's time.

        An uncounted pass over a few units comes first: it includes the rewriting of their code, and it finds the inner
        loops whose calls are too many to record.
        """
        every = Timing(self.root, self.rewriter, EVERYTHING, self.overhead_seconds)
        first = self._time_all(every, min(units, WARM_UP_UNITS))
        timing = Timing(self.root, self.rewriter, inner_loops(self.root, self._weights(*first)), self.overhead_seconds)
        loaded, collated = self._time_all(timing, units)
        self.batch_samples = min(self.batch_samples, len(loaded) * self.source.unit_samples)
        return len(loaded), self._weights(loaded, collated)

    def _time_all(self, timing: Timing, units: int) -> tuple[list[dict[Node, Clock]], list[dict[Node, Clock]]]:
        """Time the units and the batches made of them; if the samples fill no batch, collate those that there are."""
        loaded, collated = [], []
        pending: list[Any] = []
        with timing:
            for samples in self._loaded(timing, units):
                loaded.append(timing.take())
                pending.extend(samples)
                for batch in self._full_batches(pending):
                    self._collate(timing, batch)
                    collated.append(timing.take())
            if not loaded:
                raise TraceError("The dataset can be iterated only once. Give one that can be iterated again.")
            if not collated:
                self._collate(timing, pending)
                collated.append(timing.take())
        return loaded, collated

    def _weights(self, loaded: list[dict[Node, Clock]], collated: list[dict[Node, Clock]]) -> Weights:
        known = costs(loaded, self.source.unit_samples) | costs(collated, self.batch_samples)
        return measure(self.root, known, self.overhead_seconds)

    def discover(self, units: int, weights: Weights, reads: ReadCounter) -> Discovery:
        """Follow the values in every unit, and repeat a few units with other states of the random number generators."""
        selection = select(worth_following(weights), whole=False)
        discovery = Discovery(self.root, self.rewriter, reads, selection)
        with discovery:
            self._discover_round(discovery, list(range(units)), 0)
            disturb_generators()
            compared = list(range(min(units, COMPARED_UNITS)))
            self._discover_round(discovery, compared[::-1] if self.source.interleaves else compared, 1)
        return discovery

    def _discover_round(self, discovery: Discovery, order: list[int], number: int) -> None:
        pending: list[Any] = []
        batches = 0
        discovery.deadline = self.deadline
        loads = self.source.loads(discovery, len(order), reverse=order[0] > 0)
        for unit, load in zip(order, loads, strict=True):
            discovery.begin(unit, number if unit < COMPARED_UNITS else None)
            try:
                pending.extend(load())
            except StopIteration:
                break  # a stream may be shorter this time
            self._check_time()
            discovery.keep_only(pending)
            for batch in self._full_batches(pending) if number == 0 else ():
                batches += 1
                discovery.begin(-batches)
                discovery.deliver(self._collate(discovery, batch))
                discovery.keep_only(pending)

    def time(self, units: int, selection: Selection) -> Timings:
        """Time the selected nodes, interleaved with the same units run without recording."""
        timings = Timings()
        rounds = 1
        timing = Timing(self.root, self.rewriter, selection, self.overhead_seconds)
        timing.deadline = self.deadline
        with timing:
            for number in range(MOST_ROUNDS):
                if number < rounds:
                    self._time_round(timing, timings, units, plain_first=number % 2 == 0)
                if number == 0:
                    seconds = 2 * sum(clock.wall_seconds for clock in timings.plain)
                    rounds = int(min(TIMED_SECONDS, TIMED_SHARE * self._left) / max(seconds, 1e-9))
        return timings

    def _time_round(self, timing: Timing, timings: Timings, units: int, plain_first: bool) -> None:
        plain_batch: list[Any] = []
        recorded_batch: list[Any] = []
        for recorded, load in self._turns(timing, units, plain_first):
            try:
                samples, clock = time_call(load)
            except StopIteration:
                continue
            self._check_time()
            if recorded:
                timings.recorded.append(timing.take())
                recorded_batch.extend(samples)
            else:
                timings.plain.append(clock)
                plain_batch.extend(samples)
            for batch in self._full_batches(recorded_batch):
                self._collate(timing, batch)
                timings.recorded_batches.append(timing.take())
            for batch in self._full_batches(plain_batch):
                timings.plain_batches.append(time_call(partial(self._collate, None, batch))[1])

    def _turns(self, timing: Timing, units: int, plain_first: bool) -> Iterator[tuple[bool, Load]]:
        """Yield the loads of a plain and a recorded pass: interleaved if the source allows it, else pass by pass."""
        passes = [
            [(recorded, load) for load in self.source.loads(timing if recorded else None, units)]
            for recorded in ((False, True) if plain_first else (True, False))
        ]
        if not self.source.interleaves:
            yield from (turn for one_pass in passes for turn in one_pass)
            return
        for number, pair in enumerate(zip(*passes, strict=True)):
            yield from (pair if number % 2 == 0 else reversed(pair))

    def watch_lock(self, units: int, selection: Selection) -> LockWatch:
        """Measure when the selected nodes hold the interpreter's lock."""
        watch = LockWatch(self.root, self.rewriter, selection)
        until = time.perf_counter() + min(WATCHED_SECONDS, WATCHED_SHARE * self._left)
        with watch:
            while True:
                pending: list[Any] = []
                for samples in self._loaded(watch, units):
                    pending.extend(samples)
                    for batch in self._full_batches(pending):
                        self._collate(watch, batch)
                if time.perf_counter() > until:
                    return watch

    def _loaded(self, recorder: Recorder | None, units: int) -> Iterator[list[Any]]:
        """Load units through a recorder until a stream ends. Raise TraceTimeError once the deadline has passed."""
        return (samples for samples, _ in self._timed_loads(recorder, units))

    def _timed_loads(self, recorder: Recorder | None, units: int) -> Iterator[tuple[list[Any], Clock]]:
        if recorder is not None:
            recorder.deadline = self.deadline
        for load in self.source.loads(recorder, units):
            try:
                timed = time_call(load)
            except StopIteration:
                return
            self._check_time()
            yield timed

    @property
    def _left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.perf_counter()

    def _check_time(self) -> None:
        if time.perf_counter() > self.deadline:
            raise TraceTimeError("there was not enough time to follow its samples")

    def _full_batches(self, pending: list[Any]) -> Iterator[list[Any]]:
        """Remove full batches from `pending`, which holds samples not yet collated, and yield them."""
        while len(pending) >= self.batch_samples:
            batch = pending[: self.batch_samples]
            del pending[: self.batch_samples]
            yield batch

    def _collate(self, recorder: Recorder | None, batch: list[Any]) -> Any:
        if self.collate is None:
            return batch
        samples = batch if self.batched else batch[0]
        return self.collate(samples) if recorder is None else recorder.enter(COLLATE, self.collate, samples)
