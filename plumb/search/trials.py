"""Real runs of one loader in many configurations: short ones that calibrate the model, trials, and finals by turns."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from plumb.config import Config
from plumb.errors import TuningError, UsersError, one_line
from plumb.model import feasible, operational
from plumb.model.situation import Situation
from plumb.plan import Rate
from plumb.processes import share_temporary_folder
from plumb.profile.memory import Taken
from plumb.runtime.inherited import OpenedHere
from plumb.runtime.loader import NO_REWRITES, Loader, rebuild
from plumb.runtime.stored import Stored
from plumb.runtime.watched import deaths_told_where_waited_for
from plumb.search import decide
from plumb.search.filled import FilledStores, HittingStream
from plumb.search.guard import Guard, TrialEndedError
from plumb.search.ledger import STOPPED, Ledger, Memory, Reading
from plumb.search.measure import Chunk, Feed, IndexStream, interleaved, is_known, rate_of
from plumb.search.probed import Probed, growth_bytes, largest, run_of

# Workers that are silent from the start for so long, or for so many times what the slowest took to start or what a
# batch costs, are taken for stuck.
_STUCK_SECONDS, _STUCK_TIMES = 20.0, 20.0
# Finalists of which none promises more than the user's own are measured by so many turns, and no more; nor are those
# that are better than it, and not told from one another.
_TURNS_ENOUGH = 4
# Finalists that don't fit beside each other are measured one after another, so many times.
_TURNS_ALONE = 2
# A trial whose loader takes more than this share of the time that is left until it is steady is not begun.
_SHARE_UNTIL_STEADY = 0.25
# A trial that takes so many times as long to become steady as was predicted is looked at for what it gave until then.
_TIMES_UNTIL_STEADY = 2.0
# One batch is enough where it takes so many times as long as a look should.
_LONG_BATCH_PACES = 4.0
# The costs of a sample are looked at for so many paces at the most, where a few slow ones keep them from being known.
LONGEST_LOOK_PACES = 4.0
# A trial is judged by so many chunks at least.
_CHUNKS_TO_JUDGE = 4


# Where a trial takes more than predicted by more than this share, the model of a worker's memory is corrected.
_MEMORY_ERROR = 0.10


@dataclass(frozen=True)
class _Ran:
    """What one window of a loader of its own showed."""

    chunks: list[Chunk]
    start_seconds: float
    taken_bytes: float


class Trials:
    """Runs configurations of a loader, and takes down what they deliver.

    `samples` counts all that were loaded; `probed` has the readings of the runs that calibrated the model. `rewrites`
    are those that configurations may name: one with a store reads it as later epochs find it. Trials go on after errors
    in `skips`.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        stream: IndexStream | None,
        samples_per_batch: float,
        ledger: Ledger,
        pace_seconds: float,
        deadline: float,
        skips: tuple[type[Exception], ...] = (),
    ) -> None:
        share_temporary_folder()
        self._skips = skips
        self.ledger = ledger
        self.samples = 0.0
        self.rewrites = NO_REWRITES
        self._stores: FilledStores | None = None
        self.probed: list[Reading] = []
        self._loader = loader
        self._stream = stream
        self._samples_per_batch = samples_per_batch
        self._pace_seconds = pace_seconds
        self._deadline = deadline
        self._opened = OpenedHere(loader.dataset)
        # For each limit that a trial came to, the least that the model says such a trial needs.
        self._too_much: dict[str, float] = {}
        self._worker_bytes = 0.0

    def probe(self, situation: Situation, config: Config) -> Probed | None:
        """A short run with workers, or None where it does not fit or fails. It lasts until the rate is known.

        Its beginning is only a warm-up: a worker's first batches lie in memory that nobody has used yet, which costs.
        """
        if feasible.broken_limit(config, situation):
            return None
        try:
            with self._running(situation, config, self._deadline) as (feed, taken):
                feed.window(self._pace_seconds / 2)
                before, loaded = largest(feed), feed.samples
                chunks = feed.window(LONGEST_LOOK_PACES * self._pace_seconds, self._is_known)
                after, loaded = largest(feed), (feed.samples - loaded) / config.num_workers
                taken_bytes = taken.bytes()
        except Exception as error:
            self._failed(situation, config, error)
            return None
        if not chunks:
            return None
        start_seconds = feed.workers_start_seconds
        reading = self.ledger.measured(
            situation, config, chunks, start_seconds, "measured, to calibrate", Memory(None, taken_bytes)
        )
        self.probed.append(reading)
        growth = growth_bytes(self._loader.dataset, before, after, loaded, situation.epoch_samples)
        known = config.num_workers * after.private_bytes + situation.footprint.batch_bytes
        parted = max(0.0, taken_bytes - known)
        return Probed(run_of(feed), after.private_bytes, growth, parted, start_seconds, feed.main_start_seconds)

    def _is_known(self, chunks: Sequence[Chunk]) -> bool:
        each = [chunk.seconds / chunk.samples for chunk in chunks]
        return sum(chunk.seconds for chunk in chunks) >= self._pace_seconds and is_known(each)

    def baseline(self, situation: Situation, config: Config) -> Reading:
        """The user's own configuration, whatever the model says of its limits.

        Raises UsersError with what it raises, and TuningError where it came to a limit, or is stuck.
        """
        if self.ledger.knows(config):
            return self.ledger.derived(situation, config)
        try:
            ran = self._run(situation, config, math.inf, first_counts=config.num_workers == 0)
        except TrialEndedError as error:
            raise TuningError(f"your own configuration can't be measured: {error}", 1) from None
        except Exception as error:
            raise UsersError(error) from None
        memory = self._seen_memory(situation, config, ran.taken_bytes)
        return self.ledger.measured(situation, config, ran.chunks, ran.start_seconds, memory=memory)

    def try_out(
        self, situation: Situation, config: Config, floor: float, on_chunk: Callable[[int, float], None]
    ) -> Reading:
        """Measures one configuration, or says why not; one that differs in the restart of workers only is derived.

        `on_chunk` is told the loop's rate after each chunk. A trial is stopped when the interval of that rate lies
        below `floor`.
        """
        if self.ledger.knows(config):
            return self.ledger.derived(situation, config)
        broken = feasible.broken_limit(config, self.corrected(situation)) or self._is_too_much(situation, config)
        if broken:
            return self.ledger.failed(config, f"not tried: {broken}")
        steady_after = self._seconds_until_steady(situation, config)
        if steady_after > self.steady_within_seconds():
            return self.ledger.failed(config, f"not tried: steady after {steady_after:.0f} s at the earliest")

        def hopeless(chunks: Sequence[Chunk]) -> bool:
            highest = operational.training_rate(situation, config, rate_of(chunks).interval[1])
            return len(chunks) >= _CHUNKS_TO_JUDGE and highest < floor

        def told(chunks: Sequence[Chunk]) -> bool:
            rate = rate_of(chunks).samples_per_second
            on_chunk(len(chunks), operational.training_rate(situation, config, rate))
            return hopeless(chunks)

        patience = _TIMES_UNTIL_STEADY * (steady_after + self._pace_seconds) + self.ledger.slowest_start_seconds

        def too_slow(samples: float, seconds: float) -> bool:
            return seconds > patience and operational.training_rate(situation, config, samples / seconds) < floor

        try:
            ran = self._run(situation, config, self._deadline, told, too_slow)
        except Exception as error:
            return self._failed(situation, config, error)
        if not ran.chunks:
            return self.ledger.failed(config, "not measured: far slower than predicted, or time was up")
        outcome = STOPPED if hopeless(ran.chunks) else "measured"
        memory = self._seen_memory(situation, config, ran.taken_bytes)
        return self.ledger.measured(situation, config, ran.chunks, ran.start_seconds, outcome, memory)

    def side_by_side(self, situation: Situation, finalists: Sequence[Reading]) -> list[Reading]:
        """Measures the finalists by turns, on fresh loaders, until the best of them is told from the user's own, and,
        for some turns more, from the others.

        One that fails is out. Raises UsersError with what the dataset raises in the first, the user's own.
        """
        feeds: list[Feed] = []
        try:
            all_chunks = self._by_turns(situation, finalists, feeds)
        except Exception as error:
            broken = [number for number, feed in enumerate(feeds) if feed.is_broken]
            if 0 in broken and not isinstance(error, TrialEndedError):
                raise UsersError(error) from None
            if not broken or 0 in broken:
                return list(finalists)
            for number in broken:
                self._failed(situation, finalists[number].config, error)
            rest = [reading for number, reading in enumerate(finalists) if number not in broken]
            return self.side_by_side(situation, rest) if len(rest) > 1 else rest
        if not all(all_chunks):
            return list(finalists)
        return [
            self.ledger.measured(situation, feed.config, chunks, feed.workers_start_seconds, "side by side")
            for feed, chunks in zip(feeds, all_chunks, strict=True)
        ]

    def _by_turns(
        self, situation: Situation, finalists: Sequence[Reading], feeds: list[Feed]
    ) -> Sequence[Sequence[Chunk]]:
        """Each finalist's chunks; `feeds` gets the loader of each, as soon as it runs."""

        def in_a_training(finalist: Reading, rate: Rate) -> tuple[float, float]:
            low, high = (operational.training_rate(situation, finalist.config, bound) for bound in rate.interval)
            return low, high

        def settled(all_chunks: Sequence[Sequence[Chunk]], turns: int) -> bool:
            if not all(all_chunks):
                return True
            own, *others = (rate_of(chunks) for chunks in all_chunks)
            if any(other.interval[0] > own.interval[1] for other in others):
                return turns >= _TURNS_ENOUGH or decide.are_told_apart(
                    [in_a_training(reading, other) for reading, other in zip(finalists[1:], others, strict=True)]
                )
            promises = max((other.samples_per_second for other in others), default=0.0)
            return turns >= _TURNS_ENOUGH and promises <= own.samples_per_second * (1 + decide.EQUAL)

        configs = [reading.config for reading in finalists]
        if feasible.fit_together(configs, self.corrected(situation)):
            with contextlib.ExitStack() as running:
                feeds.extend(
                    running.enter_context(self._running(situation, config, self._deadline))[0] for config in configs
                )
                return interleaved(feeds, self._pace_seconds, settled)
        all_chunks: list[list[Chunk]] = [[] for _ in configs]
        for _ in range(_TURNS_ALONE):
            feeds.clear()
            for config, chunks in zip(configs, all_chunks, strict=True):
                with self._running(situation, config, self._deadline) as (feed, _):
                    feeds.append(feed)
                    chunks += feed.window(self._pace_seconds)
        return all_chunks

    def steady_within_seconds(self) -> float:
        """How soon a trial that begins now must have made what is prefetched at its start, to be worth beginning."""
        return _SHARE_UNTIL_STEADY * (self._deadline - time.perf_counter())

    def _seconds_until_steady(self, situation: Situation, config: Config) -> float:
        rate = operational.loader_rate(situation, config)
        in_flight = config.batches_in_flight
        return float(operational.seconds_until_steady(situation, config.num_workers, in_flight, rate))

    def _run(
        self,
        situation: Situation,
        config: Config,
        deadline: float,
        enough: Callable[[Sequence[Chunk]], bool] | None = None,
        too_slow: Callable[[float, float], bool] | None = None,
        first_counts: bool = False,
    ) -> _Ran:
        """One window of a fresh loader; no more than its first batch where that counts, and takes long enough."""
        with self._running(situation, config, deadline) as (feed, taken):
            if first_counts and feed.first_chunk.seconds > _LONG_BATCH_PACES * self._pace_seconds:
                return _Ran([feed.first_chunk], 0.0, taken.bytes())
            return _Ran(feed.window(self._pace_seconds, enough, too_slow), feed.workers_start_seconds, taken.bytes())

    def corrected(self, situation: Situation) -> Situation:
        """The situation with a worker's memory as trials showed it, where that is more than the probe said."""
        footprint = situation.footprint
        private = max(footprint.worker_private_bytes, self._worker_bytes)
        return dataclasses.replace(situation, footprint=dataclasses.replace(footprint, worker_private_bytes=private))

    def _seen_memory(self, situation: Situation, config: Config, measured_bytes: float) -> Memory:
        """What a trial took beside what was predicted; where it is clearly more, the workers are held to account."""
        situation = self.corrected(situation)
        predicted = feasible.trial_bytes(situation, config)
        excess = measured_bytes - predicted
        if config.num_workers and excess > _MEMORY_ERROR * predicted:
            self._worker_bytes = situation.footprint.worker_private_bytes + excess / config.num_workers
        return Memory(predicted, measured_bytes)

    def _failed(self, situation: Situation, config: Config, error: Exception) -> Reading:
        """The reading of a trial that raised; of one that was ended, what it teaches is remembered."""
        if not isinstance(error, TrialEndedError):
            return self.ledger.failed(config, f"failed: {_why(error)}")
        if error.limit is not None:
            need = _need(situation, config, error.limit)
            self._too_much[error.limit] = min(need, self._too_much.get(error.limit, need))
        return self.ledger.failed(config, f"ended: {error}", error.limit)

    def _is_too_much(self, situation: Situation, config: Config) -> str | None:
        """The limit that a trial came to which needed no more than `config` does, in words."""
        for limit, too_much in self._too_much.items():
            if _need(situation, config, limit) >= too_much:
                return f"needs as much of {limit} as a trial that came to its limit"
        return None

    def forget_opened(self) -> None:
        """Makes the dataset forget what samples made here have opened: workers would have opened it themselves."""
        self._opened.put_back()

    def hitting(self, config: Config) -> tuple[Stored, IndexStream] | None:
        """A store as later epochs of `config` find it, and index batches that hit it; None for one without a store.

        Raises StoreError, and what the dataset raises.
        """
        if config.cache is None or self._stream is None:
            return None
        if self._stores is None:
            self._stores = FilledStores(self._loader, self._stream, self.rewrites, self._pace_seconds, self._skips)
        filled = self._stores.of(config)
        return filled.stored, HittingStream(self._stream, filled, config.cache.hit_ratio, self.ledger.seed)

    @contextlib.contextmanager
    def _running(self, situation: Situation, config: Config, deadline: float) -> Iterator[tuple[Feed, Taken]]:
        """A fresh loader that runs and is watched, and what it takes. Raises what it raises, and TrialEndedError."""
        stored, stream = self.hitting(config) or (None, self._stream)
        self.forget_opened()
        taken = Taken()
        guard = Guard(situation.limits, self._patience_seconds(situation, deadline))

        def make(indices: Any) -> Loader:
            return rebuild(
                self._loader,
                config,
                indices,
                rewrites=self.rewrites,
                stored=stored,
                stacks_file=guard.stacks_file,
            )

        try:
            with deaths_told_where_waited_for():
                feed = Feed(config, make, stream, self._samples_per_batch, deadline, guard, self._skips)
                try:
                    yield feed, taken
                finally:
                    self.samples += feed.samples
                    feed.close()
        except Exception:
            # Torch raises wherever the main thread happens to be when a worker is killed.
            guard.check()
            raise
        finally:
            guard.stop()

    def _patience_seconds(self, situation: Situation, deadline: float) -> float:
        """How long a loader may take to its first batch."""
        batch_seconds = situation.cost.wall_seconds * self._samples_per_batch
        patience = max(_STUCK_SECONDS, _STUCK_TIMES * max(self.ledger.slowest_start_seconds, batch_seconds))
        return min(patience, max(0.0, deadline - time.perf_counter()) + decide.OVERTIME_SECONDS)


def _why(error: Exception) -> str:
    """An error in one line; of a worker that was killed, by which signal, which torch says only in the cause."""
    cause = error.__cause__
    return one_line(cause if isinstance(cause, RuntimeError) and "by signal" in str(cause) else error)


def _need(situation: Situation, config: Config, limit: str) -> float:
    return float(feasible.needs(situation, config, config.num_workers, config.batches_in_flight)[limit])
