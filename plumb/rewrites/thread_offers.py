"""Search for threads that make a loader's samples: validated, and timed up to the capacity of the samples' source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from plumb.core.config import Cut
from plumb.core.errors import one_line
from plumb.core.plan import SampleCost
from plumb.core.units import format_seconds
from plumb.model.concurrency_climb import SourceCapacity
from plumb.model.inputs import StorageBandwidth, ThreadsCost, bandwidth
from plumb.rewrites.collate_cost import COLLATED, collate_seconds
from plumb.rewrites.costs import FEWEST_SAMPLES, TIMED_BATCH
from plumb.rewrites.find_cuts import CutCandidate
from plumb.rewrites.reads_at_once import climb_reads
from plumb.rewrites.thread_timing import THREADS, gains_of_climb, interpolated_gains, time_threads
from plumb.rewrites.thread_validation import InProcess, validate_threads
from plumb.runtime.replay.replay import Replay
from plumb.tracing.pipeline import Pipeline

READS_AT_MOST = 64
"""Largest number of samples to read at once if no useful number is known."""

# Largest number of loads per sample in a validation, and numbers of samples: fewer show whether a climb is safe.
_LOADS, _SAMPLES, _FIRST_SAMPLES = 10, 96, 8
_VALIDATED_THREADS, _FIRST_THREADS = 8, 2
# A comparison is begun if it takes at most this share of the remaining time, and the one before a climb if it takes at
# most the second share.
_SHARE, _FIRST_SHARE = 0.5, 0.25
# Threads save nothing if they take more than this share of one thread's time.
_SAVES_NOTHING = 0.95
# Waiting that is a smaller share of a sample's time is not worth threads.
_WORTH_THREADS = 0.1
# Largest shares of the remaining time for a climb and for timing threads. A climb's process gets this many seconds more
# to end before it is given up.
_CLIMBED, _TIMED, _GRACE_SECONDS = 0.3, 0.3, 10.0


@dataclass
class TimeLeft:
    """Remaining time of a search for rewrites.

    `seconds` returns the remaining time; `affordable` returns how many samples can be loaded a number of times in a
    share of it; `trial_seconds` returns the time for a trial in a process of its own.
    """

    seconds: Callable[[], float]
    affordable: Callable[[int, int, float], int]
    trial_seconds: Callable[[], float]


@dataclass
class ThreadSearch:
    """Search for threads that make samples of one loader.

    `process` returns a function that tries something in a process of its own, or the reason why none can. `reasons`
    gets reasons against threads, `compared` what was found to be equal. `source` is the capacity of the samples'
    source, None if it was not measured.
    """

    loader: DataLoader[Any]
    cost: SampleCost
    indices: Sequence[Any]
    time: TimeLeft
    process: Callable[[], InProcess | str]
    reads_at_most: int
    reasons: list[str]
    compared: list[str]
    source: SourceCapacity | None = field(default=None, init=False)

    def whole(self, pipeline: Pipeline) -> tuple[ThreadsCost, ...]:
        """Return the costs of threads that make whole samples, if samples wait or release the interpreter's lock."""
        return self._threads(None, has_waits(pipeline)) if _may_be_shared(pipeline) else ()

    def until(self, pipeline: Pipeline, cuts: Sequence[CutCandidate]) -> tuple[ThreadsCost, ...]:
        """Return the costs of threads up to a cut: each with waiting before it, else the cut that saves most."""
        if not _may_be_shared(pipeline):
            return ()
        waiting = [cut for cut in cuts if cut.prefix_wait_seconds >= _WORTH_THREADS * cut.prefix_seconds]
        waits = has_waits(pipeline)
        return tuple(found for cut in waiting or cuts[:1] for found in self._threads(cut, waits))

    def storage(self) -> StorageBandwidth | None:
        """Return the source's bandwidth by the number of concurrent reads; None if the source doesn't limit them."""
        source = self.source
        if source is None or not source.is_exhausted or not source.reads:
            return None
        return bandwidth(source, max(self.cost.output_bytes, 1.0))

    def _threads(self, until: CutCandidate | None, waits: bool) -> tuple[ThreadsCost, ...]:
        cut = until.cut if until else None
        what = f"up to {cut.after}" if cut else "for whole samples"
        process = self.process()
        if isinstance(process, str):
            self.reasons.append(f"no threads {what}: {process}")
            return ()
        most = max(_VALIDATED_THREADS, *THREADS)
        if waits:
            reason = self._climb(until, process)
            if reason:
                self.reasons.append(f"no threads {what}: {reason}")
                return ()
            most = int(self.source.most_reads) if self.source else self.reads_at_most
        most = min(most, self.loader.batch_size or 1)
        if most < _FIRST_THREADS:
            self.reasons.append(f"no threads {what}: {self._why_no_two()}")
            return ()
        threads = min(_VALIDATED_THREADS, most)
        samples = self.time.affordable(_SAMPLES, _LOADS, _SHARE)
        reason = self._validated(cut, samples, threads, most, process)
        if reason:
            self.reasons.append(f"no threads {what}: {reason}")
            return ()
        self.compared.append(f"{samples} samples by {threads} threads {what}")
        return self._timed(until, what, most, waits)

    def _validated(self, cut: Cut | None, samples: int, threads: int, widest: int, process: InProcess) -> str | None:
        """Return why `threads` threads can't make samples, None if they can."""
        if samples < FEWEST_SAMPLES:
            needed, left = FEWEST_SAMPLES * _LOADS / _SHARE * self.cost.wall_seconds, self.time.seconds()
            return (
                f"there was no time to compare what they make: that takes about {format_seconds(needed)}, and "
                f"{format_seconds(left)} were left; allow more, with --budget or budget="
            )
        return validate_threads(
            self.loader.dataset,
            self.indices[:samples],
            threads,
            cut,
            widest=widest,
            seconds=self.time.trial_seconds(),
            process=process,
        )

    def _climb(self, until: CutCandidate | None, process: InProcess) -> str | None:
        """Measure how many concurrent reads the source sustains, unless that is known; return a reason if that fails.

        Code that was not validated runs in a process of its own, after a validation with two threads.
        """
        if self.source is not None:
            return None
        cut = until.cut if until else None
        samples = self.time.affordable(_FIRST_SAMPLES, _LOADS, _FIRST_SHARE)
        if self.reads_at_most < _FIRST_THREADS:
            return None
        reason = self._validated(cut, samples, _FIRST_THREADS, _FIRST_THREADS, process)
        if reason:
            return reason
        alone = until.prefix_seconds if until else self.cost.wall_seconds
        seconds = _CLIMBED * self.time.seconds()
        work = partial(_climbed, self.loader.dataset, cut, list(self.indices), alone, self.reads_at_most, seconds)
        outcome = process(work, seconds + _GRACE_SECONDS)
        if outcome.reason:
            return f"making samples in threads {outcome.reason}"
        self.source = outcome.value
        return None if self.source else "there was no time to look at how many the source holds at once"

    def _why_no_two(self) -> str:
        source = self.source
        if source is not None and source.most_reads < _FIRST_THREADS:
            return source.reason or "their source gives no more to two reads at once than to one"
        return "no more than one sample may be read at a time"

    def _timed(self, until: CutCandidate | None, what: str, most: int, waits: bool) -> tuple[ThreadsCost, ...]:
        """Time batches made by increasing numbers of threads, as many as there is time for."""
        replay = Replay(self.loader.dataset, until.cut if until else None)
        timed = time_threads(
            replay.prefix if until else replay.sample,
            self.indices,
            self.loader.batch_size or min(len(self.indices), TIMED_BATCH),
            until.prefix_seconds if until else self.cost.wall_seconds,
            until.prefix_seconds - until.prefix_wait_seconds if until else self.cost.cpu_seconds,
            _TIMED * self.time.seconds(),
            tuple(sorted({*(count for count in THREADS if count <= most), *([most] if waits else [])})),
        )
        if timed.reason:
            self.reasons.append(f"no more threads {what}: {timed.reason}")
        found, per_batch = timed.gains, self.loader.batch_size or 1
        if self.source is not None and not found and not timed.reason:
            found = gains_of_climb(self.source, per_batch, self.cost.output_bytes)
        gains = [gain for gain in found if min(gain.time_factor, gain.crowded_time_factor) < _SAVES_NOTHING]
        if found and not gains:
            self.reasons.append(f"no threads {what}: they take as long as one")
        if waits:
            gains = list(interpolated_gains(gains, per_batch))
        if until is None:
            affordable = self.time.affordable(self.loader.batch_size or 1, COLLATED, 0.1)
            indices = self.indices[: max(FEWEST_SAMPLES, affordable)]
            try:
                after, serial = None, collate_seconds(self.loader, indices) if gains else 0.0
            except Exception as error:
                self.reasons.append(f"no threads {what}: a batch of a few samples fails: {one_line(error)}")
                return ()
        else:
            after, serial = until.cut.after, until.suffix_cpu_seconds + until.suffix_wait_seconds
        return tuple(
            ThreadsCost(
                gain.threads,
                after,
                gain.time_factor,
                gain.crowded_time_factor,
                gain.cpu_factor,
                timed.alone_cpu_seconds,
                serial,
                gain.thread_bytes,
            )
            for gain in gains
        )


def has_waits(pipeline: Pipeline) -> bool:
    """Return whether a considerable share of a sample's time is waiting."""
    return pipeline.sample_wait_seconds >= _WORTH_THREADS * pipeline.sample_seconds


def _may_be_shared(pipeline: Pipeline) -> bool:
    return has_waits(pipeline) or any(operator.releases_gil for operator in pipeline.operators)


def _climbed(
    dataset: Any, cut: Cut | None, indices: Sequence[Any], alone_seconds: float, most: int, seconds: float
) -> SourceCapacity | None:
    replay = Replay(dataset, cut)
    read = replay.sample if cut is None else replay.prefix
    return climb_reads(read, indices, alone_seconds, most, seconds)
