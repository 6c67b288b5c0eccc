"""One pipeline with all its peers: each chooses, then all are measured by turns, and held to the same work."""

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

from analysis import knobs
from analysis.apart.contents import Contents, contents_of, difference, same_totals
from analysis.caching import seconds_of_an_epoch
from analysis.field import S3
from analysis.footprint import Footprint, watched
from analysis.machine import description
from analysis.measuring import Contender, Reading, by_turns, pure_cpu_seconds, stream_of, torch_contender
from analysis.outcome import PLUMB, PLUMB_IN_ORDER, PLUMB_UNCACHED, Entry, Epochs, Outcome
from analysis.peers.choosers import CHOOSERS, Choice
from analysis.peers.environments import CannotRunError
from analysis.peers.libraries import LIBRARIES, Running, tuned_by_hand
from analysis.pipelines.pipeline import Pipeline
from analysis.results import Effort, say
from analysis.tuned import Tuned, tune_loader
from plumb.core.config import Config
from plumb.core.errors import TuningError
from plumb.host import Limits
from plumb.tuning.loader_under_test import TrainingStep

_LOOKED_AT_BATCHES, _LOOKED_AT_SAMPLES = 2, 64
_STEP_SHARE = 0.5


@dataclass(frozen=True)
class Extent:
    """Size of a comparison.

    It has looks at a full grid, the grid's best few for the finals, epochs by the clock, and settings of each library.
    """

    effort: Effort
    grid_at_most: int
    grid_turns: int
    finalists: int
    epochs: int
    epochs_at_most_seconds: float
    settings_at_most: int


FULL = Extent(Effort(4, 0.8, 30.0), 32, 1, 3, 3, 60.0, 5)
QUICK = Extent(Effort(1, 0.2, 12.0), 2, 1, 1, 1, 6.0, 1)


def hold(name: str, pipeline: Pipeline, extent: Extent, with_slow: bool) -> Outcome:
    """Measures everything of one pipeline; without what is slow, and libraries of their own, where it must be quick.

    Raises what the dataset raises, and TuningError where plumb has no room.
    """
    effort, loader = extent.effort, pipeline.loader
    # Nothing is stored of a remote source, so that every sample is fetched, as in a first epoch.
    memory = 0 if name == S3 else None
    choices, failures, tuned = _plumbs(pipeline, effort.budget_seconds, memory)
    say(f"{name}: plumb chose {tuned.config} in {tuned.seconds:.0f} s")
    for chooser in CHOOSERS:
        with _noted(chooser.name, failures):
            _require(with_slow or not chooser.is_slow)
            choices.append(chooser.choose(pipeline, tuned, effort))
    leaders, grid_seconds = _of_grid(pipeline, tuned, extent)
    choices += [Choice("a full grid's best", leader, grid_seconds) for leader in leaders]
    libraries: list[Running] = []
    for library in LIBRARIES:
        with _noted(library.name, failures):
            _require(with_slow)
            libraries.append(tuned_by_hand(library, pipeline, effort.window_seconds, extent.settings_at_most))
    tuned.fill(choice.contender.config for choice in choices)
    # Whoever chose the same is measured once.
    sides = {_key(choice.contender): choice.contender for choice in choices}
    apart = [running.contender for running in libraries]
    limits: list[float] = []
    say(f"{name}: {len(sides) + len(apart)} loaders, {effort.turns} turns")
    readings = by_turns(
        [*sides.values(), *apart],
        stream_of(loader),
        pipeline.batch_size,
        effort.turns,
        effort.window_seconds,
        lambda: limits.append(limit_of(pipeline, effort.window_seconds)),
    )
    by_key = dict(zip(sides, readings, strict=False))
    looks = Looks(pipeline, effort.window_seconds)
    of_sides = {key: looks.at(reading) for key, reading in by_key.items()}
    entries = [
        replace(of_sides[_key(choice.contender)], peer=choice.peer, tuning_seconds=choice.seconds, note=choice.note)
        for choice in choices
    ]
    of_libraries = [
        looks.apart(running, reading) for running, reading in zip(libraries, readings[len(sides) :], strict=True)
    ]
    measured = Outcome(
        name,
        pipeline.name,
        pipeline.bounded_by,
        description(),
        limits,
        grid_seconds,
        [*entries, *of_libraries, *failures],
    )
    return replace(measured, epochs=_epochs(pipeline, memory, choices, of_sides, extent))


def _require(is_wanted: bool) -> None:
    if not is_wanted:
        raise CannotRunError("left out of a quick run")


@contextlib.contextmanager
def _noted(peer: str, failures: list[Entry]) -> Iterator[None]:
    """Note why a peer can't run."""
    try:
        yield
    except CannotRunError as reason:
        failures.append(Entry(peer, error=str(reason)))


def limit_of(pipeline: Pipeline, seconds: float) -> float:
    """Return the samples per second that the CPUs, or the source, allow at most."""
    cpus = Limits.detect().cpus / pure_cpu_seconds(pipeline.loader, seconds, pipeline.batch_size)
    return min(cpus, pipeline.ceiling_samples_per_second or math.inf)


def _plumbs(pipeline: Pipeline, seconds: float, memory: float | None) -> tuple[list[Choice], list[Entry], Tuned]:
    """Plumb's choice, and what it chooses if it must not store anything, or must keep the order of a stream.

    Whoever gives a stream to several workers has its samples in another order, so plumb may do so, too.
    """
    streams = pipeline.is_iterable
    tuned = tune_loader(pipeline.loader, seconds, None, memory, pipeline.batch_size, may_reorder=streams)
    note = "with --allow-reorder, as whoever reads a stream with several workers" if streams else ""
    choices = [Choice(PLUMB, tuned.contender(tuned.config), tuned.seconds, note)]
    if tuned.config.cache is None and not streams:
        return choices, [], tuned
    peer = PLUMB_IN_ORDER if streams else PLUMB_UNCACHED
    try:
        other = tune_loader(pipeline.loader, seconds, None, 0, pipeline.batch_size)
    except TuningError as error:
        return choices, [Entry(peer, error=str(error))], tuned
    return [*choices, Choice(peer, other.contender(other.config), other.seconds)], [], tuned


def _of_grid(pipeline: Pipeline, tuned: Tuned, extent: Extent) -> tuple[list[Contender], float]:
    """Return the best few of all that plumb may choose, thinned out if that is too many.

    The second result is the seconds that the whole grid would take, at the mean of the part that was measured.
    """
    every = knobs.grid(pipeline, tuned.space)
    configs = knobs.thinned(every, extent.grid_at_most)[-extent.grid_at_most :]
    tuned.fill(configs)
    begun = time.perf_counter()
    readings = by_turns(
        [tuned.contender(config) for config in configs],
        stream_of(pipeline.loader),
        pipeline.batch_size,
        extent.grid_turns,
        extent.effort.window_seconds,
    )
    seconds = (time.perf_counter() - begun) * len(every) / len(configs)
    ranked = sorted((r for r in readings if r.is_measured), key=lambda r: -r.rate.samples_per_second)
    leaders = [tuned.contender(reading.contender.config) for reading in ranked[: extent.finalists]]
    return leaders, seconds


def _key(contender: Contender) -> tuple[bool, Config]:
    """Return a key of contenders that are the same: torch's loaders with the same arguments have the same one."""
    return contender.name.startswith("plumb"), contender.config


class Looks:
    """Looks at what loaders deliver, beside torch's default, and at what they take; not while they are timed."""

    def __init__(self, pipeline: Pipeline, seconds: float) -> None:
        self._pipeline, self._seconds = pipeline, seconds
        self._batches = looked_at_batches(pipeline)
        self._expected = self._contents(torch_contender(pipeline.loader, Config()))

    def at(self, reading: Reading) -> Entry:
        """Return the entry of a loader of torch's or plumb's."""
        contender = reading.contender
        assert isinstance(contender, Contender)
        entry = Entry(contender.name, str(contender.config), reading.turns, error=reading.error)
        if not reading.is_measured:
            return entry
        with watched(os.getpid()) as footprint:
            by_turns([contender], stream_of(self._pipeline.loader), self._pipeline.batch_size, 1, self._seconds)
        return self._told(entry, self._contents(contender), footprint)

    def apart(self, running: Running, reading: Reading) -> Entry:
        """Return the entry of a library."""
        settings = ", ".join(f"{name}={value}" for name, value in running.job.settings.items())
        versions = {running.library.name: ""}
        entry = Entry(
            running.library.name, settings, reading.turns, running.seconds, error=reading.error, versions=versions
        )
        if not reading.is_measured:
            return entry
        try:
            contents, footprint, versions = running.looked_at(self._batches, self._seconds)
        except CannotRunError as reason:
            return replace(entry, difference=f"not looked at: {reason}")
        return replace(self._told(entry, contents, footprint), versions=versions)

    def _told(self, entry: Entry, contents: Contents, footprint: Footprint) -> Entry:
        if self._pipeline.is_iterable:
            differs = "" if same_totals(self._expected, contents) else "an epoch has other samples"
        else:
            differs = difference(self._expected, contents, exact=self._pipeline.is_deterministic)
        return replace(entry, memory_bytes=footprint.bytes, processes=footprint.processes, difference=differs)

    def _contents(self, contender: Contender) -> Contents:
        """Of the same few batches for everyone; of a whole epoch where the order is the loader's own."""
        if self._pipeline.is_iterable:
            return contents_of(contender.make(None))
        return contents_of(islice(contender.make(self._batches), len(self._batches)))


def looked_at_batches(pipeline: Pipeline) -> list[list[int]]:
    """Batches whose contents are compared: the same for everyone."""
    size, length = pipeline.batch_size, len(pipeline.dataset)
    count = max(_LOOKED_AT_BATCHES, math.ceil(_LOOKED_AT_SAMPLES / size))
    return [[number % length for number in range(batch * size, (batch + 1) * size)] for batch in range(count)]


def _epochs(
    pipeline: Pipeline, memory: float | None, choices: Sequence[Choice], entries: dict[Any, Entry], extent: Extent
) -> Epochs | None:
    """Compare a training loop end to end: torch's best and what plumb chooses for this loop, by turns.

    Returns None if that takes too long.
    """
    torchs = [choice.contender for choice in choices if not _key(choice.contender)[0]]
    measured = [contender for contender in torchs if entries[_key(contender)].is_measured]
    if not measured:
        return None
    best = max(measured, key=lambda contender: entries[_key(contender)].rate.samples_per_second)
    rate = entries[_key(best)].rate.samples_per_second
    if (2 * extent.epochs + 2) * len(pipeline.dataset) / rate > extent.epochs_at_most_seconds:
        return None
    # The step stands in for an accelerator's, which the best of torch's loaders keeps waiting for half of the time.
    step = _STEP_SHARE * pipeline.batch_size / rate
    tuned = tune_loader(
        pipeline.loader,
        extent.effort.budget_seconds,
        TrainingStep(pipeline.batch_size / step, cpu_seconds=0.0, blocks=True),
        memory,
        pipeline.batch_size,
        may_reorder=pipeline.is_iterable,
    )
    plain, chosen = _own_order(pipeline, best.config), tuned.make(tuned.config, None)
    reuse = tuned.config.allocator_reuse
    seconds_of_an_epoch(plain, step)
    first = seconds_of_an_epoch(chosen, step, reuse)
    pairs = [(seconds_of_an_epoch(plain, step), seconds_of_an_epoch(chosen, step, reuse)) for _ in range(extent.epochs)]
    torchs_seconds, plumbs_seconds = ([pair[side] for pair in pairs] for side in (0, 1))
    return Epochs(step, str(best.config), torchs_seconds, str(tuned.config), first, plumbs_seconds)


def _own_order(pipeline: Pipeline, config: Config) -> DataLoader[Any]:
    arguments = {"collate_fn": pipeline.collate_fn, **config.loader_arguments()}
    if pipeline.batch_sampler is not None:
        return DataLoader(pipeline.dataset, batch_sampler=pipeline.batch_sampler, **arguments)
    return DataLoader(pipeline.dataset, pipeline.batch_size, shuffle=not pipeline.is_iterable, **arguments)
