"""Real runs of one loader in many configurations: short ones that calibrate the model, trials, and finals by turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from plumb.errors import UsersError, one_line
from plumb.model import feasible, operational
from plumb.model.calibration import ProbeRun
from plumb.model.situation import Situation
from plumb.plan import Config
from plumb.profile.memory import private_bytes
from plumb.runtime.loader import NO_REWRITES, rebuild
from plumb.runtime.stored import Stored
from plumb.search.filled import FilledStores, HittingStream
from plumb.search.ledger import STOPPED, Ledger, Reading
from plumb.search.measure import Chunk, Feed, IndexStream, interleaved, rate_of

# Workers that are silent for so long, or for so many times what the slowest took to start, are taken for stuck.
_STUCK_SECONDS, _STUCK_STARTS = 20.0, 20.0
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

    def probe(self, situation: Situation, config: Config) -> Probed | None:
        """A short run with workers, or None where it does not fit or fails.

        Its first half is only a warm-up: a worker's first batches lie in memory that nobody has used yet, which costs.
        """
        if feasible.broken_limit(config, situation):
            return None
        try:
            feed = self._feed(config, self._deadline)
            try:
                feed.window(self._pace_seconds / 2)
                chunks = feed.window(self._pace_seconds)
                private = max((private_bytes(pid) for pid in feed.worker_pids), default=0.0)
            finally:
                self._close(feed)
        except Exception as error:
            self.ledger.failed(config, f"failed: {one_line(error)}")
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
        """The user's own configuration, limits or not. Raises UsersError with what it raises."""
        if self.ledger.knows(config):
            return self.ledger.derived(situation, config)
        try:
            chunks, start_seconds = self._run(config, math.inf)
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
        broken = feasible.broken_limit(config, situation)
        if broken:
            return self.ledger.failed(config, f"not tried: {broken}")
        steady_after = self._seconds_until_steady(situation, config)
        if steady_after > _SHARE_UNTIL_STEADY * (self._deadline - time.perf_counter()):
            return self.ledger.failed(config, f"not tried: steady after {steady_after:.0f} s at the earliest")

        def hopeless(chunks: Sequence[Chunk]) -> bool:
            highest = operational.training_rate(situation, config, rate_of(chunks).interval[1])
            return len(chunks) >= _CHUNKS_TO_JUDGE and highest < floor

        def told(chunks: Sequence[Chunk]) -> bool:
            rate = rate_of(chunks).samples_per_second
            on_chunk(len(chunks), operational.training_rate(situation, config, rate))
            return hopeless(chunks)

        try:
            chunks, start_seconds = self._run(config, self._deadline, told)
        except Exception as error:
            return self.ledger.failed(config, f"failed: {one_line(error)}")
        if not chunks:
            return self.ledger.failed(config, "not measured: time was up")
        outcome = STOPPED if hopeless(chunks) else "measured"
        return self.ledger.measured(situation, config, chunks, start_seconds, outcome)

    def side_by_side(self, situation: Situation, finalists: Sequence[Reading]) -> list[Reading]:
        """Measures the finalists by turns, on fresh loaders, until the best of them is told from the user's own."""
        feeds: list[Feed] = []

        def settled(all_chunks: Sequence[Sequence[Chunk]]) -> bool:
            if not all(all_chunks):
                return True
            own, *others = (rate_of(chunks) for chunks in all_chunks)
            return any(other.interval[0] > own.interval[1] for other in others)

        try:
            feeds.extend(self._feed(reading.config, self._deadline) for reading in finalists)
            all_chunks = interleaved(feeds, self._pace_seconds, settled)
        finally:
            for feed in feeds:
                self._close(feed)
        if not all(all_chunks):
            return list(finalists)
        return [
            self.ledger.measured(situation, feed.config, chunks, feed.workers_start_seconds, "side by side")
            for feed, chunks in zip(feeds, all_chunks, strict=True)
        ]

    def _seconds_until_steady(self, situation: Situation, config: Config) -> float:
        """What it takes to make all that is prefetched at the start, and one round of batches to count."""
        batches = config.batches_in_flight + max(config.num_workers, 1)
        return batches * self._samples_per_batch / operational.loader_rate(situation, config)

    def _run(
        self, config: Config, deadline: float, enough: Callable[[Sequence[Chunk]], bool] | None = None
    ) -> tuple[list[Chunk], float]:
        """One window of a fresh loader, and the seconds that its workers took to start."""
        feed = self._feed(config, deadline)
        try:
            return feed.window(self._pace_seconds, enough), feed.workers_start_seconds
        finally:
            self._close(feed)

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

    def _feed(self, config: Config, deadline: float) -> Feed:
        stored, stream = self.hitting(config) or (None, self._stream)
        stuck_after = self._stuck_after_seconds(config)
        return Feed(
            config,
            lambda indices: rebuild(self._loader, config, indices, stuck_after, self.rewrites, stored),
            stream,
            self._samples_per_batch,
            deadline,
        )

    def _close(self, feed: Feed) -> None:
        self.samples += feed.samples
        feed.close()

    def _stuck_after_seconds(self, config: Config) -> float:
        by_experience = _STUCK_STARTS * self.ledger.slowest_start_seconds
        return max(_STUCK_SECONDS, by_experience) if config.num_workers else 0.0
