"""Real runs of one loader in many configurations: calibrating runs, trials, and interleaved finals."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.core.errors import TuningError, UsersError, one_line
from plumb.core.plan import Rate
from plumb.core.thresholds import EQUAL
from plumb.host.process_control import share_temporary_folder
from plumb.host.process_memory import MemoryTaken
from plumb.instrument.fork_safety import HandleSnapshot
from plumb.model import constraints, resource_bounds
from plumb.model.inputs import ModelInputs
from plumb.runtime.loader import NO_REWRITES, Loader, rebuild
from plumb.runtime.store.dataset_store import DatasetStore
from plumb.tuning.measure.paired_comparison import Answer, PairedRatio, paired_ratio
from plumb.tuning.measure.throughput import Chunk, IndexStream, MeasuredLoader, interleaved, is_known, rate_of
from plumb.tuning.measure.trial_guard import TrialEndedError, TrialGuard
from plumb.tuning.measure.trial_worker import worker_deaths_raised_while_waiting
from plumb.tuning.measure.warm_store import FilledStores, HittingStream
from plumb.tuning.search import decision
from plumb.tuning.search.calibration_runs import CalibrationRun, growth_bytes, largest_worker, probe_run
from plumb.tuning.search.ledger import STOPPED, Ledger, Memory, TrialResult

# Workers are stuck if they deliver nothing from the start for this many seconds, or for this multiple of the slowest
# start so far or of a batch's cost.
_STUCK_SECONDS, _STUCK_TIMES = 20.0, 20.0
# Number of turns after which finals end if no finalist promises more than the user's own, or if those that are better
# than it can't be distinguished.
_TURNS_ENOUGH = 4
# Finalists that don't fit beside each other run one after another, this many times.
_TURNS_ALONE = 2
# A trial is not begun if its loader would take more than this share of the remaining time to become steady.
_SHARE_UNTIL_STEADY = 0.25
# A trial that takes this multiple of the predicted time to become steady is judged by its rate until then.
_TIMES_UNTIL_STEADY = 2.0
# One batch is enough if it takes this multiple of a window.
_LONG_BATCH_WINDOWS = 4.0
# Longest window for the costs of a sample, in paces, if a few slow samples keep them uncertain.
LONGEST_PROBE_WINDOWS = 4.0
# Smallest number of chunks by which a trial is judged.
_CHUNKS_TO_JUDGE = 4


# If a trial takes more memory than predicted by more than this share, the model of a worker's memory is corrected.
_MEMORY_ERROR = 0.10


@dataclass(frozen=True)
class PairedLook:
    """Measurements of the user's configuration and a candidate in adjacent windows, and the ratio of their rates."""

    own: TrialResult
    candidate: TrialResult
    ratio: PairedRatio


@dataclass(frozen=True)
class _TrialWindow:
    """Result of one window of a fresh loader."""

    chunks: list[Chunk]
    start_seconds: float
    taken_bytes: float


class Trials:
    """Runner of a loader's configurations that records their rates in a ledger.

    `samples` counts all samples loaded; `probed` has the measurements of the calibrating runs. `rewrites` are those
    that configurations may name; a configuration with a store reads it as in later epochs. Trials go on after errors in
    `skips`.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        stream: IndexStream | None,
        samples_per_batch: float,
        ledger: Ledger,
        window_seconds: float,
        deadline: float,
        skips: tuple[type[Exception], ...] = (),
    ) -> None:
        share_temporary_folder()
        self._skips = skips
        self.ledger = ledger
        self.samples = 0.0
        self.rewrites = NO_REWRITES
        self._stores: FilledStores | None = None
        self.probed: list[TrialResult] = []
        self._loader = loader
        self._stream = stream
        self._samples_per_batch = samples_per_batch
        self._window_seconds = window_seconds
        self._deadline = deadline
        self._opened = HandleSnapshot(loader.dataset)
        # For each limit that a trial reached, the smallest need that the model computed for such a trial.
        self._too_much: dict[str, float] = {}
        self._worker_bytes = 0.0

    def probe(self, inputs: ModelInputs, config: Config) -> CalibrationRun | None:
        """Run a configuration with workers until its rate is known; return None if it doesn't fit or fails.

        The beginning of the run is a warm-up, because a worker's first batches lie in new memory, which costs page
        faults.
        """
        if constraints.broken_limit(config, inputs):
            return None
        try:
            with self._running(inputs, config, self._deadline) as (loader, taken):
                loader.window(self._window_seconds / 2)
                before, loaded = largest_worker(loader), loader.samples
                chunks = loader.window(LONGEST_PROBE_WINDOWS * self._window_seconds, self._is_known)
                after, loaded = largest_worker(loader), (loader.samples - loaded) / config.num_workers
                taken_bytes = taken.bytes()
        except Exception as error:
            self._failed(inputs, config, error)
            return None
        if not chunks:
            return None
        start_seconds = loader.workers_start_seconds
        reading = self.ledger.measured(
            inputs, config, chunks, start_seconds, "measured, to calibrate", Memory(None, taken_bytes)
        )
        self.probed.append(reading)
        growth = growth_bytes(self._loader.dataset, before, after, loaded, inputs.epoch_samples)
        known = config.num_workers * after.private_bytes + inputs.footprint.batch_bytes
        parted = max(0.0, taken_bytes - known)
        return CalibrationRun(
            probe_run(loader), after.private_bytes, growth, parted, start_seconds, loader.main_start_seconds
        )

    def probe_or_reason(self, inputs: ModelInputs, config: Config) -> CalibrationRun | str | None:
        """Run a configuration as `probe` does, or return why it failed; None if there was no time for it."""
        tried = len(self.ledger.trials)
        found = self.probe(inputs, config)
        return found or (self.ledger.trials[-1].outcome if len(self.ledger.trials) > tried else None)

    def _is_known(self, chunks: Sequence[Chunk]) -> bool:
        each = [chunk.seconds / chunk.samples for chunk in chunks]
        return sum(chunk.seconds for chunk in chunks) >= self._window_seconds and is_known(each)

    def baseline(self, inputs: ModelInputs, config: Config) -> TrialResult:
        """Measure the user's own configuration, without regard to the limits that the model sees.

        Raises:
            UsersError: The loader raised.
            TuningError: The configuration reached a limit, or is stuck.
        """
        if self.ledger.knows(config):
            return self.ledger.amortized_result(inputs, config)
        try:
            ran = self._run(inputs, config, math.inf, first_counts=config.num_workers == 0)
        except TrialEndedError as error:
            raise TuningError(f"your own configuration can't be measured: {error}", 1) from None
        except Exception as error:
            raise UsersError(error) from None
        memory = self._compare_memory(inputs, config, ran.taken_bytes)
        return self.ledger.measured(inputs, config, ran.chunks, ran.start_seconds, memory=memory)

    def try_out(
        self, inputs: ModelInputs, config: Config, floor: float, on_chunk: Callable[[int, float], None]
    ) -> TrialResult:
        """Measure one configuration, derive it from one that differs only in worker persistence, or record a failure.

        Args:
            inputs: Model inputs.
            config: Configuration to measure.
            floor: Rate of the loop, in samples per second; a trial stops once its interval lies below.
            on_chunk: Called after each chunk with the number of chunks and the loop's rate.

        Returns:
            The measurement; without rates if the trial was not begun or failed.
        """
        if self.ledger.knows(config):
            return self.ledger.amortized_result(inputs, config)
        broken = constraints.broken_limit(config, self.corrected(inputs)) or self._is_too_much(inputs, config)
        if broken:
            return self.ledger.failed(config, f"not tried: {broken}")
        steady_after = self._seconds_until_steady(inputs, config)
        if steady_after > self.steady_within_seconds():
            return self.ledger.failed(config, f"not tried: steady after {steady_after:.0f} s at the earliest")

        def hopeless(chunks: Sequence[Chunk]) -> bool:
            highest = resource_bounds.training_rate(inputs, config, rate_of(chunks).interval[1])
            return len(chunks) >= _CHUNKS_TO_JUDGE and highest < floor

        def told(chunks: Sequence[Chunk]) -> bool:
            rate = rate_of(chunks).samples_per_second
            on_chunk(len(chunks), resource_bounds.training_rate(inputs, config, rate))
            return hopeless(chunks)

        patience = _TIMES_UNTIL_STEADY * (steady_after + self._window_seconds) + self.ledger.slowest_start_seconds

        def too_slow(samples: float, seconds: float) -> bool:
            return seconds > patience and resource_bounds.training_rate(inputs, config, samples / seconds) < floor

        try:
            ran = self._run(inputs, config, self._deadline, told, too_slow)
        except Exception as error:
            return self._failed(inputs, config, error)
        if not ran.chunks:
            return self.ledger.failed(config, "not measured: far slower than predicted, or time was up")
        outcome = STOPPED if hopeless(ran.chunks) else "measured"
        memory = self._compare_memory(inputs, config, ran.taken_bytes)
        return self.ledger.measured(inputs, config, ran.chunks, ran.start_seconds, outcome, memory)

    def interleaved_trials(self, inputs: ModelInputs, finalists: Sequence[TrialResult]) -> list[TrialResult]:
        """Measure the finalists interleaved, on fresh loaders, until the best is distinguished from the user's own.

        Some further turns try to distinguish the best from the other finalists. Finalists that fail are dropped.

        Args:
            inputs: Model inputs.
            finalists: Earlier measurements, the user's configuration first.

        Raises:
            UsersError: The dataset raised in the user's configuration.
        """
        loaders: list[MeasuredLoader] = []
        try:
            all_chunks = self._interleave(inputs, finalists, loaders)
        except Exception as error:
            broken = [number for number, loader in enumerate(loaders) if loader.is_broken]
            if 0 in broken and not isinstance(error, TrialEndedError):
                raise UsersError(error) from None
            if not broken or 0 in broken:
                return list(finalists)
            for number in broken:
                self._failed(inputs, finalists[number].config, error)
            rest = [reading for number, reading in enumerate(finalists) if number not in broken]
            return self.interleaved_trials(inputs, rest) if len(rest) > 1 else rest
        if not all(all_chunks):
            return list(finalists)
        return [
            self.ledger.measured(inputs, loader.config, chunks, loader.workers_start_seconds, "side by side")
            for loader, chunks in zip(loaders, all_chunks, strict=True)
        ]

    def _interleave(
        self, inputs: ModelInputs, finalists: Sequence[TrialResult], loaders: list[MeasuredLoader]
    ) -> Sequence[Sequence[Chunk]]:
        """Return each finalist's chunks; its loader is appended to `loaders` as soon as it runs."""

        def in_a_training(finalist: TrialResult, rate: Rate) -> tuple[float, float]:
            low, high = (resource_bounds.training_rate(inputs, finalist.config, bound) for bound in rate.interval)
            return low, high

        def settled(all_chunks: Sequence[Sequence[Chunk]], turns: int) -> bool:
            if not all(all_chunks):
                return True
            own, *others = (rate_of(chunks) for chunks in all_chunks)
            if any(other.interval[0] > own.interval[1] for other in others):
                return turns >= _TURNS_ENOUGH or decision.are_distinguishable(
                    [in_a_training(reading, other) for reading, other in zip(finalists[1:], others, strict=True)]
                )
            promises = max((other.samples_per_second for other in others), default=0.0)
            return turns >= _TURNS_ENOUGH and promises <= own.samples_per_second * (1 + EQUAL)

        configs = [reading.config for reading in finalists]
        if constraints.fit_together(configs, self.corrected(inputs)):
            with contextlib.ExitStack() as running:
                for config in configs:
                    loaders.append(running.enter_context(self._running(inputs, config, self._deadline))[0])
                    # No two loaders ask the samples' source at once.
                    loaders[-1].settle()
                return interleaved(loaders, self._window_seconds, settled)
        all_chunks: list[list[Chunk]] = [[] for _ in configs]
        for _ in range(_TURNS_ALONE):
            loaders.clear()
            for config, chunks in zip(configs, all_chunks, strict=True):
                with self._running(inputs, config, self._deadline) as (loader, _):
                    loaders.append(loader)
                    chunks += loader.window(self._window_seconds)
        return all_chunks

    def paired(self, inputs: ModelInputs, own: Config, candidate: Config, until: float) -> PairedLook | None:
        """Compare a candidate with the user's configuration in adjacent windows until the answer is known, or `until`.

        Returns None if both don't fit beside each other, or if one of them fails.
        """
        if not constraints.fit_together((own, candidate), self.corrected(inputs)):
            return None
        loaders: list[MeasuredLoader] = []

        def rate(config: Config, chunk: Chunk) -> float:
            return resource_bounds.training_rate(inputs, config, chunk.samples / chunk.seconds)

        def ratio(all_chunks: Sequence[Sequence[Chunk]]) -> PairedRatio | None:
            pairs = [(rate(own, one), rate(candidate, other)) for one, other in zip(*all_chunks, strict=False)]
            return paired_ratio(pairs) if pairs else None

        def is_known(all_chunks: Sequence[Sequence[Chunk]], _: int) -> bool:
            now = ratio(all_chunks)
            return now is not None and now.answer is not Answer.UNDECIDED

        try:
            with contextlib.ExitStack() as running:
                for config in (own, candidate):
                    loaders.append(running.enter_context(self._running(inputs, config, until))[0])
                    loaders[-1].settle()
                all_chunks = interleaved(loaders, self._window_seconds, is_known)
        except Exception as error:
            self._failed(inputs, candidate, error)
            return None
        found = ratio(all_chunks)
        if found is None:
            return None
        own_result, result = (
            self.ledger.measured(inputs, loader.config, chunks, loader.workers_start_seconds, "in pairs")
            for loader, chunks in zip(loaders, all_chunks, strict=True)
        )
        return PairedLook(own_result, result, found)

    def steady_within_seconds(self) -> float:
        """Return the longest time to steady state, in seconds from now, at which a trial is still worth beginning."""
        return _SHARE_UNTIL_STEADY * (self._deadline - time.perf_counter())

    def _seconds_until_steady(self, inputs: ModelInputs, config: Config) -> float:
        rate = resource_bounds.loader_rate(inputs, config)
        in_flight = config.batches_in_flight
        return float(resource_bounds.seconds_until_steady(inputs, config.num_workers, in_flight, rate))

    def _run(
        self,
        inputs: ModelInputs,
        config: Config,
        deadline: float,
        enough: Callable[[Sequence[Chunk]], bool] | None = None,
        too_slow: Callable[[float, float], bool] | None = None,
        first_counts: bool = False,
    ) -> _TrialWindow:
        """Measure one window of a fresh loader, or only its first batch if `first_counts` and the batch takes long."""
        with self._running(inputs, config, deadline) as (loader, taken):
            if first_counts and loader.first_chunk.seconds > _LONG_BATCH_WINDOWS * self._window_seconds:
                return _TrialWindow([loader.first_chunk], 0.0, taken.bytes())
            return _TrialWindow(
                loader.window(self._window_seconds, enough, too_slow), loader.workers_start_seconds, taken.bytes()
            )

    def corrected(self, inputs: ModelInputs) -> ModelInputs:
        """Return the model inputs with the memory of a worker as seen in trials if that is more than the probe's."""
        footprint = inputs.footprint
        private = max(footprint.worker_private_bytes, self._worker_bytes)
        return dataclasses.replace(inputs, footprint=dataclasses.replace(footprint, worker_private_bytes=private))

    def _compare_memory(self, inputs: ModelInputs, config: Config, measured_bytes: float) -> Memory:
        """Return a trial's predicted and measured memory; if it took clearly more, raise the estimate for a worker."""
        inputs = self.corrected(inputs)
        predicted = constraints.trial_bytes(inputs, config)
        excess = measured_bytes - predicted
        if config.num_workers and excess > _MEMORY_ERROR * predicted:
            self._worker_bytes = inputs.footprint.worker_private_bytes + excess / config.num_workers
        return Memory(predicted, measured_bytes)

    def _failed(self, inputs: ModelInputs, config: Config, error: Exception) -> TrialResult:
        """Record and return a trial that raised; if it reached a limit, store its need for later comparisons."""
        if not isinstance(error, TrialEndedError):
            return self.ledger.failed(config, f"failed: {_why(error)}")
        if error.limit is not None:
            need = _need(inputs, config, error.limit)
            self._too_much[error.limit] = min(need, self._too_much.get(error.limit, need))
        return self.ledger.failed(config, f"ended: {error}", error.limit)

    def _is_too_much(self, inputs: ModelInputs, config: Config) -> str | None:
        """Return the reason if `config` needs at least as much as a trial that reached a limit, else None."""
        for limit, too_much in self._too_much.items():
            if _need(inputs, config, limit) >= too_much:
                return f"needs as much of {limit} as a trial that came to its limit"
        return None

    def forget_opened(self) -> None:
        """Undo what loading samples here opened in the dataset, so that workers open it themselves."""
        self._opened.put_back()

    def hitting(self, config: Config) -> tuple[DatasetStore, IndexStream] | None:
        """Return a store as later epochs of `config` find it, and index batches that hit it; None without a store.

        Raises StoreError, and the dataset's errors.
        """
        if config.cache is None or self._stream is None:
            return None
        if self._stores is None:
            self._stores = FilledStores(self._loader, self._stream, self.rewrites, self._window_seconds, self._skips)
        filled = self._stores.of(config)
        return filled.stored, HittingStream(self._stream, filled, config.cache.hit_ratio, self.ledger.seed)

    @contextlib.contextmanager
    def _running(
        self, inputs: ModelInputs, config: Config, deadline: float
    ) -> Iterator[tuple[MeasuredLoader, MemoryTaken]]:
        """Run a fresh, guarded loader within the context; yield it and its memory.

        Raises the loader's errors, and TrialEndedError.
        """
        stored, stream = self.hitting(config) or (None, self._stream)
        self.forget_opened()
        taken = MemoryTaken()
        guard = TrialGuard(inputs.limits, self._patience_seconds(inputs, deadline))

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
            with worker_deaths_raised_while_waiting():
                waits = inputs.cost.wait_seconds > inputs.cost.cpu_seconds
                loader = MeasuredLoader(
                    config, make, stream, self._samples_per_batch, deadline, guard, self._skips, waits
                )
                try:
                    yield loader, taken
                finally:
                    self.samples += loader.samples
                    loader.close()
        except Exception:
            # Torch's SIGCHLD handler raises in the main thread, at any point, when a worker is killed.
            guard.check()
            raise
        finally:
            guard.stop()

    def _patience_seconds(self, inputs: ModelInputs, deadline: float) -> float:
        """Return the longest time that a loader may take to its first batch, in seconds."""
        batch_seconds = inputs.cost.wall_seconds * self._samples_per_batch
        patience = max(_STUCK_SECONDS, _STUCK_TIMES * max(self.ledger.slowest_start_seconds, batch_seconds))
        return min(patience, max(0.0, deadline - time.perf_counter()) + decision.OVERTIME_SECONDS)


def _why(error: Exception) -> str:
    """Return an error in one line; of a killed worker, torch's cause, which names the signal."""
    cause = error.__cause__
    return one_line(cause if isinstance(cause, RuntimeError) and "by signal" in str(cause) else error)


def _need(inputs: ModelInputs, config: Config, limit: str) -> float:
    return float(constraints.needs(inputs, config, config.num_workers, config.batches_in_flight)[limit])
