"""Real runs of one loader in many configurations: short ones that calibrate the model, trials, and finals by turns."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from plumb.errors import TuningError, UsersError, one_line
from plumb.model import feasible, operational
from plumb.model.calibration import ProbeRun
from plumb.model.situation import Situation
from plumb.plan import Config
from plumb.profile.memory import private_bytes
from plumb.runtime.loader import NO_REWRITES, Loader, rebuild
from plumb.runtime.stored import Stored
from plumb.search.filled import FilledStores, HittingStream
from plumb.search.guard import Guard, TrialEndedError
from plumb.search.ledger import STOPPED, Ledger, Reading
from plumb.search.measure import Chunk, Feed, IndexStream, interleaved, rate_of

# Workers that are silent from the start for so long, or for so many times what the slowest took to start or what a
# batch costs, are taken for stuck.
_STUCK_SECONDS, _STUCK_TIMES = 20.0, 20.0
# Finalists that don't fit beside each other are measured one after another, so many times.
_TURNS_ALONE = 2
# A trial whose loader takes more than this share of the time that is left until it is steady is not begun.
_SHARE_UNTIL_STEADY = 0.25
# A trial is judged by so many chunks at least.
_CHUNKS_TO_JUDGE = 4


@dataclass(frozen=True)
class Probed:
    """What a calibrating run showed: its cost, the bytes of its largest worker's own pages, and their start."""

    run: ProbeRun
    worker_private_bytes: float
    start_seconds_per_worker: float


class Trials:
    """Runs configurations of a loader, and takes down what they deliver.

    `samples` counts all that were loaded; `probed` has the readings of the runs that calibrated the model. `rewrites`
    are those that configurations may name: one with a store reads it as later epochs find it.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        stream: IndexStream | None,
        samples_per_batch: float,
        ledger: Ledger,
        pace_seconds: float,
        deadline: float,
    ) -> None:
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
        # For each limit that a trial came to, the least that the model says such a trial needs.
        self._too_much: dict[str, float] = {}

    def probe(self, situation: Situation, config: Config) -> Probed | None:
        """A short run with workers, or None where it does not fit or fails.

        Its first half is only a warm-up: a worker's first batches lie in memory that nobody has used yet, which costs.
        """
        if feasible.broken_limit(config, situation):
            return None
        try:
            with self._running(situation, config, self._deadline) as feed:
                feed.window(self._pace_seconds / 2)
                chunks = feed.window(self._pace_seconds)
                private = max((private_bytes(pid) for pid in feed.worker_pids), default=0.0)
        except Exception as error:
            self._failed(situation, config, error)
            return None
        if not chunks:
            return None
        start_seconds = feed.workers_start_seconds
        reading = self.ledger.measured(situation, config, chunks, start_seconds, "measured, to calibrate")
        self.probed.append(reading)
        used = feed.usage
        run = ProbeRun(config.num_workers, used.samples, used.seconds, used.worker_cpu_seconds, used.main_cpu_seconds)
        return Probed(run, private, feed.workers_start_seconds / config.num_workers)

    def baseline(self, situation: Situation, config: Config) -> Reading:
        """The user's own configuration, whatever the model says of its limits.

        Raises UsersError with what it raises, and TuningError where it came to a limit, or is stuck.
        """
        if self.ledger.knows(config):
            return self.ledger.derived(situation, config)
        try:
            chunks, start_seconds = self._run(situation, config, math.inf)
        except TrialEndedError as error:
            raise TuningError(f"your own configuration can't be measured: {error}", 1) from None
        except Exception as error:
            raise UsersError(error) from None
        return self.ledger.measured(situation, config, chunks, start_seconds)

    def try_out(
        self, situation: Situation, config: Config, floor: float, on_chunk: Callable[[int, float], None]
    ) -> Reading:
        """Measures one configuration, or says why not; one that differs in the restart of workers only is derived.

        `on_chunk` is told the loop's rate after each chunk. A trial is stopped when the interval of that rate lies
        below `floor`.
        """
        if self.ledger.knows(config):
            return self.ledger.derived(situation, config)
        broken = feasible.broken_limit(config, situation) or self._is_too_much(situation, config)
        if broken:
            return self.ledger.failed(config, f"not tried: {broken}")
        steady_after = self._seconds_until_steady(situation, config)
        if steady_after > _SHARE_UNTIL_STEADY * (self._deadline - time.perf_counter()):
            return self.ledger.failed(config, f"not tried: steady after {steady_after:.0f} s at the earliest")

        def hopeless(chunks: Sequence[Chunk]) -> bool:
            highest = operational.loop_rate(situation, config, rate_of(chunks).interval[1])
            return len(chunks) >= _CHUNKS_TO_JUDGE and highest < floor

        def told(chunks: Sequence[Chunk]) -> bool:
            rate = rate_of(chunks).samples_per_second
            on_chunk(len(chunks), operational.loop_rate(situation, config, rate))
            return hopeless(chunks)

        try:
            chunks, start_seconds = self._run(situation, config, self._deadline, told)
        except Exception as error:
            return self._failed(situation, config, error)
        if not chunks:
            return self.ledger.failed(config, "not measured: time was up")
        outcome = STOPPED if hopeless(chunks) else "measured"
        return self.ledger.measured(situation, config, chunks, start_seconds, outcome)

    def side_by_side(self, situation: Situation, finalists: Sequence[Reading]) -> list[Reading]:
        """Measures the finalists by turns, on fresh loaders, until the best of them is told from the user's own.

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

        def settled(all_chunks: Sequence[Sequence[Chunk]]) -> bool:
            if not all(all_chunks):
                return True
            own, *others = (rate_of(chunks) for chunks in all_chunks)
            return any(other.interval[0] > own.interval[1] for other in others)

        configs = [reading.config for reading in finalists]
        if feasible.fit_together(configs, situation):
            with contextlib.ExitStack() as running:
                feeds.extend(
                    running.enter_context(self._running(situation, config, self._deadline)) for config in configs
                )
                return interleaved(feeds, self._pace_seconds, settled)
        all_chunks: list[list[Chunk]] = [[] for _ in configs]
        for _ in range(_TURNS_ALONE):
            feeds.clear()
            for config, chunks in zip(configs, all_chunks, strict=True):
                with self._running(situation, config, self._deadline) as feed:
                    feeds.append(feed)
                    chunks += feed.window(self._pace_seconds)
        return all_chunks

    def _seconds_until_steady(self, situation: Situation, config: Config) -> float:
        """What it takes to make all that is prefetched at the start, and one round of batches to count."""
        batches = config.batches_in_flight + max(config.num_workers, 1)
        return batches * self._samples_per_batch / operational.loader_rate(situation, config)

    def _run(
        self,
        situation: Situation,
        config: Config,
        deadline: float,
        enough: Callable[[Sequence[Chunk]], bool] | None = None,
    ) -> tuple[list[Chunk], float]:
        """One window of a fresh loader, and the seconds that its workers took to start."""
        with self._running(situation, config, deadline) as feed:
            return feed.window(self._pace_seconds, enough), feed.workers_start_seconds

    def _failed(self, situation: Situation, config: Config, error: Exception) -> Reading:
        """The reading of a trial that raised; of one that was ended, what it teaches is remembered."""
        if not isinstance(error, TrialEndedError):
            return self.ledger.failed(config, f"failed: {one_line(error)}")
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

    def hitting(self, config: Config) -> tuple[Stored, IndexStream] | None:
        """A store as later epochs of `config` find it, and index batches that hit it; None for one without a store.

        Raises StoreError, and what the dataset raises.
        """
        if config.cache is None or self._stream is None:
            return None
        if self._stores is None:
            self._stores = FilledStores(self._loader, self._stream, self.rewrites, self._pace_seconds)
        filled = self._stores.of(config)
        return filled.stored, HittingStream(self._stream, filled, config.cache.hit_ratio, self.ledger.seed)

    @contextlib.contextmanager
    def _running(self, situation: Situation, config: Config, deadline: float) -> Iterator[Feed]:
        """A fresh loader that runs and is watched. Raises what it raises, and TrialEndedError where it was ended."""
        stored, stream = self.hitting(config) or (None, self._stream)
        guard = Guard(situation.limits.open_files, self._patience_seconds(situation))

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
            feed = Feed(config, make, stream, self._samples_per_batch, deadline, guard)
            try:
                yield feed
            finally:
                self.samples += feed.samples
                feed.close()
        except Exception:
            # Torch raises wherever the main thread happens to be when a worker is killed.
            guard.check()
            raise
        finally:
            guard.stop()

    def _patience_seconds(self, situation: Situation) -> float:
        """How long a loader may take to its first batch."""
        batch_seconds = situation.cost.wall_seconds * self._samples_per_batch
        return max(_STUCK_SECONDS, _STUCK_TIMES * max(self.ledger.slowest_start_seconds, batch_seconds))


def _need(situation: Situation, config: Config, limit: str) -> float:
    return float(feasible.needs(situation, config, config.num_workers, config.batches_in_flight)[limit])
