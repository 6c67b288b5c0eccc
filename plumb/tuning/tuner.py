"""Tuning of one loader: cost of a sample -> model -> trials -> interleaved finals -> decision.

The user's loop is not needed here; its step rate is an input, and the choice is the result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from plumb.core.config import Config
from plumb.core.errors import StoreError, TuningError, UsersError
from plumb.core.events import Event, Phase, TrialDone
from plumb.core.log import logger
from plumb.core.plan import LoaderResult, Measured, Trial
from plumb.core.thresholds import EQUAL, NOISE, NOTHING_TO_GAIN
from plumb.host import Machine
from plumb.host.cpu_load import OthersLoad
from plumb.host.process_memory import MemoryGrowth
from plumb.host.shared_memory_cost import drop_seconds_per_byte
from plumb.instrument.fork_safety import handles
from plumb.instrument.main_module import start_method
from plumb.instrument.sample_effects import CHILD_SECONDS
from plumb.model import constraints, planner, resource_bounds
from plumb.model.cpu_contention import CpuCompetition
from plumb.model.inputs import ModelInputs, SearchSpace
from plumb.rewrites.find_rewrites import AvailableRewrites, find_rewrites
from plumb.runtime.loader import current_config, rebuild
from plumb.tracing.device.profile import has_accelerator
from plumb.tuning import explanations, trial_journal
from plumb.tuning.epoch_rehearsal import REHEARSED_EPOCHS, EpochCosts, rehearse_epochs
from plumb.tuning.inputs_from_sample import ObservedLoader, unprobed
from plumb.tuning.iterable_sharding import Sharding, examine
from plumb.tuning.loader_under_test import LoaderUnderTest, TuningResult
from plumb.tuning.measure.no_batches import why_no_batches, why_none_by_lengths
from plumb.tuning.measure.sample_cost import MeasuredSamples, measure_samples, without_failing
from plumb.tuning.measure.samples_per_batch import index_stream
from plumb.tuning.measure.throughput import NoBatchesError
from plumb.tuning.memory_check import check_memory
from plumb.tuning.options import Options
from plumb.tuning.plain_plan import best_plain, plain_worth_trying, with_plain
from plumb.tuning.restraint import FREE, restraint_of
from plumb.tuning.result_notes import Outcome, notes, rejected_in_pairs, undecided
from plumb.tuning.search import decision
from plumb.tuning.search.calibration_runs import (
    calibrate_with_many_workers,
    calibrate_with_one_worker,
    with_malloc_reuse,
)
from plumb.tuning.search.ledger import Ledger, TrialResult, WorkersFailError
from plumb.tuning.search.optuna_space import Space
from plumb.tuning.search.search_space import (
    WorkerStart,
    counts_to_verify,
    find_search_space,
    whole_cores,
    worker_start,
)
from plumb.tuning.search.stopping import worth_seconds
from plumb.tuning.search.study import search
from plumb.tuning.search.study_storage import Record, StudyError
from plumb.tuning.search.worker_climb import climb_workers
from plumb.tuning.trials import LONGEST_PROBE_WINDOWS, PairedLook, Trials

_log = logger(__name__)

# Half of the first measurement lets the process become steady.
_FIRST_PROBE_WINDOWS = 2.0
# The search for rewrites may take this many measurement windows, or the time to load this many samples, but at most
# this share of the time.
_REWRITES_WINDOWS, _REWRITES_LOADS, _REWRITES_SHARE = 20.0, 300.0, 0.4
_OFFERED_BATCHES, _OFFERED_SAMPLES = 32, 1024
# A probe takes this many batches. If these take more than a share of the time, the model uses what it knows, and the
# usual upper costs of workers.
_PROBED_BATCHES, _PROBE_SHARE = 6, 0.15
# No more workers than this are started only to measure their interference.
_PROBED_AT_MOST = 16
# Share of the time for comparing epochs of an iterable dataset, which gains by workers or not at all.
_SHARDING_SHARE = 0.4
# Workers in the user's loop are given up if they deliver nothing for this long.
_SILENT_SECONDS = 10.0
# A forked child that makes samples, and may hang, is waited for at least so long, or this share of the budget.
_CHILD_SECONDS_AT_LEAST, _SHARE_OF_A_CHILD = 10.0, 0.25
# The search must leave time for the finals, and the probes for the search.
_UNTIL_SEARCHED, _UNTIL_PROBED = 0.6, 0.5
_UNTIL_SEARCHED_AT_LAST, _SEARCHED_AT_LEAST = 0.85, 0.2
# Workers that take more than this share of the time to start are tried after cheaper ones that may be as fast.
_DEAR_SHARE = 0.1
# Interleaved finals take at least this many batches of each: the first one, and one in each of two turns.
_BATCHES_SIDE_BY_SIDE = 3.0


@dataclass
class Tuner:
    """Tuner of one loader within its time; `choose` is the whole tuning."""

    subject: LoaderUnderTest
    options: Options
    seconds: float
    window_seconds: float
    emit: Callable[[Event], None]

    def __post_init__(self) -> None:
        self._begun = time.perf_counter()
        loader = self.subject.loader
        self._own = current_config(loader)
        self._is_iterable = isinstance(loader.dataset, IterableDataset)
        self._stream = None if self._is_iterable else index_stream(loader)
        self._sharding = Sharding(None)
        self._held = handles(loader.dataset)
        self._pins = self._own.pin_memory or (self.subject.step is not None and self.subject.step.wants_pinned)
        self._restraint = FREE
        self._start = worker_start(loader, self._own, self._held)
        self._comparable = ""
        self._earlier = 0
        self._untried: Sequence[planner.Candidate] = ()
        self._uncompared: TrialResult | None = None
        self._others = OthersLoad()
        ledger = Ledger(
            self.subject.epoch_samples,
            self.options.seed,
            lambda trial: self.emit(TrialDone(self.subject.name, trial, self._comparable)),
        )
        self._trials = Trials(
            loader,
            self._stream,
            self.subject.samples_per_batch,
            ledger,
            self.window_seconds,
            self._begun + self.seconds,
            self.subject.skips,
        )

    def choose(self) -> TuningResult:
        """Find the best configuration within the limits that was measured to be better than the user's.

        Raises TuningError if there is nothing to measure, or no room for it, and UsersError with the dataset's error in
        the user's own configuration.
        """
        self._say("what a sample costs")
        observed = ObservedLoader(self.subject, self._stream, self.window_seconds, self.options.plain)
        grown = MemoryGrowth()
        try:
            shortest, longest = _FIRST_PROBE_WINDOWS * self.window_seconds, LONGEST_PROBE_WINDOWS * self.window_seconds
            seen = observed.without_threads_as_waiting(
                measure_samples(self.subject.loader, self._stream, shortest, longest, self.subject.skips)
            )
        except NoBatchesError:
            why = why_none_by_lengths(self.subject.loader)
            if why is None and not self.subject.was_read:
                why = why_no_batches(self.subject.loader)
            said = f"has no batches: {why}" if why else "gives its batches only once: nothing is left to measure"
            raise TuningError(f"{self.subject.name} {said}", 1) from None
        except Exception as error:
            raise UsersError(error) from None
        making_bytes = grown.bytes()
        self._restrain(seen)
        self._say("what a sample goes through")
        available = self._find_rewrites(seen)
        inputs = observed.model_inputs(seen, available, making_bytes, self.options.limits, self._may_have_torch_threads)
        self._check_limits(inputs)
        if not self._has_nothing_to_gain:
            if self._is_iterable:
                self._sharding = self._examined(inputs)
            inputs = self._climbed(self._probe(inputs, available), available)
        self._say("your configuration alone")
        own = self._trials.baseline(inputs, self._own)
        search_space = self._search_space(inputs, available)
        readings = self._search(search_space, inputs, own)
        readings += self._plain_trial(inputs, available, readings)
        finals = self._compare(inputs, self._finalists(inputs, own, readings))
        paired = self._paired(search_space, inputs, finals)
        is_taken = paired is not None and paired.ratio.is_taken
        if paired is not None:
            finals, self._untried = [paired.own, paired.candidate] if is_taken else [paired.own], ()
        plain = best_plain(inputs, finals, readings, self.subject.is_decided_in_loop or is_taken)
        loaded = self._trials.samples + seen.samples
        winner = finals[-1] if is_taken else decision.winner(finals)
        return self._decide(search_space, inputs, available, finals[0], winner, plain, loaded, paired)

    def loader(self, config: Config) -> DataLoader[Any]:
        """Return the loader with another configuration, for the user's loop; its store, if any, is as in later epochs.

        Raises StoreError, and the dataset's errors.
        """
        stored, indices = self._trials.hitting(config) or (None, None)
        self._trials.forget_opened()
        # A configuration that was never tried may hang.
        return rebuild(self.subject.loader, config, indices, _SILENT_SECONDS, self._trials.rewrites, stored)

    def epoch_costs(self, planned: LoaderResult, inputs: ModelInputs, until: float) -> EpochCosts:
        """Measure the seconds of epochs of `plumb run` in addition to their batches, on a run's own runtime.

        If that would take longer than `until`, in `time.perf_counter` seconds, the trials' starts are used instead.
        """
        if self.subject.between.is_made_anew:
            # Workers do not outlive their loader.
            passing = dataclasses.replace(planned.config, persistent_workers=False)
            planned = dataclasses.replace(planned, tuned=dataclasses.replace(planned.tuned, config=passing))
        config, ledger = planned.config, self._trials.ledger
        own, start = ledger.start_seconds(self._own), ledger.start_seconds(config)
        count = max(config.num_workers, self._own.num_workers, 1)
        making = count * self.subject.samples_per_batch / planned.baseline.samples_per_second
        costs = None
        if self._stream is not None and time.perf_counter() + REHEARSED_EPOCHS * (own + start + making) < until:
            self._trials.forget_opened()
            with contextlib.suppress(NoBatchesError, StoreError):
                batches = [next(self._stream) for _ in range(count)]
                stored = (self._trials.hitting(config) or (None,))[0]
                rate = resource_bounds.making_rate(inputs, config) if stored else planned.tuned.samples_per_second
                costs = rehearse_epochs(self.subject.loader, planned, batches, rate, stored)
        if costs is not None:
            return costs
        later = 0.0 if config.persistent_workers else start
        return EpochCosts(start, later, later, 0.0 if self._own.persistent_workers else own)

    # ---- what the model is told

    def _find_rewrites(self, seen: MeasuredSamples) -> AvailableRewrites:
        wanted = max(_REWRITES_WINDOWS * self.window_seconds, _REWRITES_LOADS * seen.cost.wall_seconds)
        seconds = min(wanted, _REWRITES_SHARE * self.seconds)
        indices = self._some(_OFFERED_BATCHES, _OFFERED_SAMPLES)
        may_use_workers = self._start.why_not is None
        available = find_rewrites(
            self.subject.loader,
            seen.cost,
            indices,
            seconds,
            self._target(),
            may_use_workers=may_use_workers,
            forget_opened=self._trials.forget_opened,
            plain=self.options.plain,
            reads_at_most=planner.reads_worth(seen.cost, self.options.limits, self._step_rate),
        )
        available = self._restraint.allowed(available)
        self._trials.rewrites = available.rewrites
        return available

    def _some(self, batches: int, samples: int) -> list[Any]:
        """Return indices of the next batches, without those whose samples raise errors that the user's loop skips."""
        if self._stream is None:
            return []
        indices = self._stream.some(batches, samples)
        return without_failing(self.subject.loader, indices, self.subject.skips) if self.subject.skips else indices

    def _restrain(self, seen: MeasuredSamples) -> None:
        """Find out from the measured samples what must not be tried."""
        indices: list[Any] = []
        with contextlib.suppress(NoBatchesError):
            indices = self._some(1, 8)
        self._restraint = restraint_of(
            self.subject.loader,
            self._own,
            indices,
            self.subject.changed,
            seen.cost.wall_seconds,
            min(CHILD_SECONDS, max(_CHILD_SECONDS_AT_LEAST, _SHARE_OF_A_CHILD * self.options.budget_seconds)),
        )
        between = self.subject.between
        is_lost = between.is_made_anew and self.options.cache_folder is None
        if (between.changed or is_lost) and self._restraint.stores is None:
            self._restraint = dataclasses.replace(self._restraint, stores=explanations.changed_between_epochs(between))
        self._start = worker_start(self.subject.loader, self._own, self._held, self._restraint)

    def _target(self) -> torch.device | None:
        """Return the device on which batches may arrive, None for the CPU."""
        return torch.device("cuda") if self.options.on_device and has_accelerator() else None

    def _check_limits(self, inputs: ModelInputs) -> None:
        """Raise TuningError if the script itself leaves no memory for any loader."""
        check_memory(self.options, inputs.footprint.main_bytes)

    def _probe(self, inputs: ModelInputs, available: AvailableRewrites) -> ModelInputs:
        """Correct the model inputs by two short runs: with one worker, and with as many as there are cores."""
        if self._search_space(inputs, available).num_workers == (0,):
            return inputs
        batch_seconds = inputs.cost.wall_seconds * inputs.samples_per_batch
        if _PROBED_BATCHES * batch_seconds > _PROBE_SHARE * self.seconds:
            return unprobed(inputs, self._start_method)
        self._say("one worker, to see what this host does")
        few = max(self._own.num_workers, 1) if self._is_iterable else 1
        one = self._trials.probe(inputs, Config(few, 2, pin_memory=self._pins, start_method=self._start.method))
        if one is None:
            return inputs
        competition = CpuCompetition(self._others.usable_cpus, self._others.cpus())
        dropping = drop_seconds_per_byte(inputs.footprint.batch_bytes)
        inputs = calibrate_with_one_worker(inputs, one, dropping, competition)
        cores = whole_cores(self.options.limits.cpus)
        many = int(min(cores, _PROBED_AT_MOST, constraints.allowed(inputs)["samples at once"]))
        if self._is_iterable or many < 2 or self._seconds_spent > _UNTIL_PROBED * self.seconds:
            return inputs
        self._say(f"{many} workers, to see what this host does")
        plain = Config(many, 2, pin_memory=self._pins, start_method=self._start.method)
        config = with_malloc_reuse(inputs, plain)
        all_cores = self._trials.probe(inputs, config)
        return calibrate_with_many_workers(inputs, one, config, all_cores, cores) if all_cores else inputs

    def _climbed(self, inputs: ModelInputs, available: AvailableRewrites) -> ModelInputs:
        """Measure with more and more workers how many concurrent reads a source sustains, if samples mostly wait."""
        source, cost = inputs.source, inputs.cost
        most = planner.reads_worth(cost, self.options.limits, self._step_rate)
        is_known = source is not None and (source.is_exhausted or source.most_reads >= most)
        may = not self._is_iterable and max(self._search_space(inputs, available).num_workers) > 1
        if is_known or not may or cost.wait_seconds < cost.cpu_seconds:
            return inputs
        self._say("how much the samples' source gives to more workers")
        fits = [each for each in available.threads if source is None or each.threads <= source.good_reads]
        threads = max(fits, key=lambda each: each.threads, default=None)
        plain = Config(
            1,
            2,
            pin_memory=self._pins,
            fetch_threads=threads.threads if threads else 1,
            fetch_until=threads.until if threads else None,
            start_method=self._start.method,
        )
        until = _UNTIL_PROBED * self.seconds
        return climb_workers(
            inputs,
            plain,
            most,
            self._trials.probed,
            self._trials.probe_or_reason,
            lambda: until - self._seconds_spent,
        )

    def _search_space(self, inputs: ModelInputs, available: AvailableRewrites) -> SearchSpace:
        return find_search_space(
            self.subject.loader,
            self._own,
            self.options,
            available,
            inputs,
            self._sharding,
            start=self._start,
            pins=self._pins,
        )

    def _examined(self, inputs: ModelInputs) -> Sharding:
        """Return whether an iterable dataset shares its samples among workers."""
        counts = (
            [] if self._start.why_not or self._start.keeps_count else counts_to_verify(self._own, self.options, inputs)
        )
        if not counts:
            return Sharding(None)
        self._say("whether workers share its samples")
        self._trials.forget_opened()
        return examine(self.subject.loader, self._own.num_workers, counts, _SHARDING_SHARE * self.seconds)

    # ---- trials

    def _search(self, search_space: SearchSpace, inputs: ModelInputs, own: TrialResult) -> list[TrialResult]:
        known = [own, *(reading for reading in self._trials.probed if reading.config != own.config)]
        if self._has_nothing_to_gain:
            return known
        tried: list[TrialResult] = []
        try:
            return self._searched(search_space, inputs, own, known, tried)
        except WorkersFailError as error:
            self._start = WorkerStart(why_not=explanations.workers_failed(str(error)))
            known += [reading for reading in tried if reading.loader is not None and reading.config != own.config]
            return self._searched(dataclasses.replace(search_space, num_workers=(0,)), inputs, own, known, [])

    def _searched(
        self,
        search_space: SearchSpace,
        inputs: ModelInputs,
        own: TrialResult,
        known: list[TrialResult],
        tried: list[TrialResult],
    ) -> list[TrialResult]:
        """Return the `known` measurements and those of a search, which are also appended to `tried` one by one.

        Raises WorkersFailError as soon as trials with workers have failed alike.
        """

        def try_out(config: Config, floor: float, on_chunk: Callable[[int, float], None]) -> TrialResult:
            self._say(f"trying {config}")
            tried.append(self._trials.try_out(inputs, config, floor, on_chunk))
            failure = self._trials.ledger.failure_of_workers() if config.num_workers else ""
            if failure:
                raise WorkersFailError(failure)
            return tried[-1]

        ranking = planner.rank(search_space, inputs, self._trials.steady_within_seconds())
        # Configurations that differ only in worker persistence need no measurements of their own.
        ways = ranking.considered // len(search_space.persistent_workers)
        try:
            readings = search(
                ranking,
                known,
                Space(search_space, inputs),
                try_out,
                self._record(search_space),
                deadline=self._searched_by(),
                worth_until=self._begun + worth_seconds(ways, self.window_seconds),
                seed=self.options.seed,
                enough=resource_bounds.fed_rate(inputs) * (1 - EQUAL),
                dear_seconds=_DEAR_SHARE * self.seconds,
            )
        except StudyError as error:
            raise TuningError(str(error), 1) from None
        if len(readings) == len(known):
            ledger, ranked = self._trials.ledger, planner.rank(search_space, inputs).best
            not_failed = [each for each in ranked if not ledger.has_failed(each.config)]
            worth_rate = own.loop_rate * (1 + NOISE)
            self._untried = [each for each in not_failed[:1] if each.training_samples_per_second > worth_rate]
        return readings

    def _plain_trial(
        self, inputs: ModelInputs, available: AvailableRewrites, readings: Sequence[TrialResult]
    ) -> list[TrialResult]:
        """Return a measurement of the model's best plain configuration, or none if that is measured already."""
        if self._has_nothing_to_gain or self._seconds_spent > _UNTIL_SEARCHED_AT_LAST * self.seconds:
            return []
        search_space, within = self._search_space(inputs, available), self._trials.steady_within_seconds()
        config = plain_worth_trying(search_space, inputs, readings, within)
        if config is None:
            return []
        self._say(f"trying {config}, the best that DataLoader's own arguments can set")
        return [self._trials.try_out(inputs, config, 0.0, lambda chunks, rate: None)]

    def _finalists(self, inputs: ModelInputs, own: TrialResult, readings: Sequence[TrialResult]) -> list[TrialResult]:
        """Return the finalists; the best of torch's own arguments is among them if there is time."""
        finals = decision.finalists(inputs, own, readings)
        more = with_plain(finals, readings)
        return more if self._seconds_spent + self._seconds_interleaved(more) < self.seconds else finals

    def _searched_by(self) -> float:
        """Return the latest end of the search, in `time.perf_counter` seconds."""
        # Even if earlier phases took long, some time is left for a trial.
        late = min(_UNTIL_SEARCHED_AT_LAST * self.seconds, self._seconds_spent + _SEARCHED_AT_LEAST * self.seconds)
        return self._begun + max(_UNTIL_SEARCHED * self.seconds, late)

    def _compare(self, inputs: ModelInputs, finals: list[TrialResult]) -> list[TrialResult]:
        """Return the finalists as measured interleaved, or those that can be ranked without."""
        late_seconds = self._seconds_spent + self._seconds_interleaved(finals) - self.seconds
        known = decision.ranked_without_interleaving(finals, late_seconds)
        if known is None:
            self._say("the best few, in turns")
            return self._trials.interleaved_trials(inputs, finals)
        if len(known) < len(finals):
            self._uncompared = decision.winner(finals)
        return known

    def _paired(
        self, search_space: SearchSpace, inputs: ModelInputs, finals: Sequence[TrialResult]
    ) -> PairedLook | None:
        """Compare the best finalist with the user's configuration in pairs if no loop does, and noise may explain it.

        If there was no time for any trial, it is the best of torch's own arguments by the model: these start quickly.
        """
        if self.subject.is_decided_in_loop or self._has_nothing_to_gain:
            return None
        own, winner = finals[0], decision.winner(finals)
        candidate = winner.config if winner.config != own.config else None
        if self._untried:
            plain = planner.rank(search_space.plainly(), inputs).best[:1]
            candidate = next((one.config for one in plain if one.config != own.config), candidate)
        if candidate is None or decision.is_better(inputs, winner, own):
            return None
        if candidate.num_workers and (self._start_method != "fork" or self._trials.ledger.has_failed_with_workers):
            return None
        self._say("the best and yours, in turns")
        until = max(self._begun + self.seconds, time.perf_counter()) + min(decision.OVERTIME_SECONDS, self.seconds)
        return self._trials.paired(inputs, own.config, candidate, until)

    def _seconds_interleaved(self, finals: Sequence[TrialResult]) -> float:
        """Return the least seconds of two turns of the finalists, with the start of their workers."""
        batches = (self.subject.samples_per_batch / final.loader.samples_per_second for final in finals if final.loader)
        starts = self._trials.ledger.slowest_start_seconds * sum(final.config.num_workers > 0 for final in finals)
        return _BATCHES_SIDE_BY_SIDE * sum(batches) + starts

    def _record(self, search_space: SearchSpace) -> Record:
        """Return the study, with the properties of host, baseline and space that make its rates comparable."""
        machine, loader = Machine.detect(), self.subject.loader
        name = f"{self.options.script}:{self.subject.name}"
        fingerprint = {
            "host": f"{machine.cpu_model}, {self.options.limits.cpus:g} CPUs",
            "packages": machine.packages,
            "baseline": f"{self._own}, batches of {self.subject.samples_per_batch:.0f}",
            "dataset": f"{type(loader.dataset).__qualname__} of {self.subject.epoch_samples} samples",
        }
        earlier: tuple[Trial, ...] = ()
        if self.options.kept_file is not None:
            # The rewrites found may depend on the time for the search, so the space is left out here.
            self._comparable = Record(None, name, fingerprint).study_name
            earlier = trial_journal.read(Path(self.options.kept_file), self._comparable)
        self._earlier = len({trial.config for trial in earlier})
        space = {"space": repr(dataclasses.replace(search_space, num_workers=(0,)))}
        return Record(self.options.study_url, name, fingerprint | space, earlier)

    # ---- the decision

    def _decide(
        self,
        search_space: SearchSpace,
        inputs: ModelInputs,
        available: AvailableRewrites,
        own: TrialResult,
        winner: TrialResult,
        plain: TrialResult,
        loaded: float,
        paired: PairedLook | None,
    ) -> TuningResult:
        assert own.loader is not None
        assert plain.loader is not None
        assert winner.loader is not None
        inputs = self._trials.corrected(inputs)
        may_be_better = self.subject.is_decided_in_loop and winner.loop_rate > own.loop_rate
        closest, is_settled = None, paired is not None or winner.config == own.config or may_be_better
        if not is_settled and not decision.is_better(inputs, winner, own):
            closest, winner = winner, own
        assert winner.loader is not None
        promising = next((each for each in self._untried if each.config != winner.config), None)
        # Workers that are not forked take seconds to start, for which there is no time after the deadline.
        is_quick = self._start_method == "fork" and not self._trials.ledger.has_failed_with_workers
        is_left_to_loop = self.subject.is_decided_in_loop and winner.config == own.config and is_quick
        outcome = Outcome(
            own,
            winner,
            closest,
            paired,
            None if is_left_to_loop else promising,
            self._uncompared,
            self._earlier,
            self._others.cpus(),
            self._others.usable_cpus,
            self._sharding if self._is_iterable else None,
            tuple(self._held),
        )
        said = notes(
            outcome,
            self.subject,
            self.options,
            self.seconds,
            search_space,
            inputs,
            available,
            self._start,
            self._restraint,
            self._has_nothing_to_gain,
        )
        return TuningResult(
            Measured(own.config, own.loader.samples_per_second, own.loader.interval),
            Measured(winner.config, winner.loader.samples_per_second, winner.loader.interval),
            Measured(plain.config, plain.loader.samples_per_second, plain.loader.interval),
            inputs,
            search_space,
            available,
            tuple(self._trials.ledger.trials),
            said,
            loaded,
            promising.config if promising is not None and is_left_to_loop else None,
            undecided(outcome, self.options),
            rejected_in_pairs(outcome, self.options),
        )

    # ---- small helpers

    @property
    def _seconds_spent(self) -> float:
        return time.perf_counter() - self._begun

    @property
    def _step_rate(self) -> float | None:
        return self.subject.step.samples_per_second if self.subject.step else None

    @property
    def _may_have_torch_threads(self) -> bool:
        """False for forked workers, which would hang, because OpenMP's threads don't survive a fork."""
        may = not self.options.plain and not self._start.why_not
        return may and self._start_method != "fork" and whole_cores(self.options.limits.cpus) > 1

    @property
    def _start_method(self) -> str:
        """Start method of workers, chosen by the tuning, the script or Python."""
        return self._start.method or start_method(context=self.subject.loader.multiprocessing_context)

    @property
    def _has_nothing_to_gain(self) -> bool:
        return self.subject.waiting_share is not None and self.subject.waiting_share <= NOTHING_TO_GAIN

    def _say(self, text: str) -> None:
        _log.info("%s: %s", self.subject.name, text)
        self.emit(Phase(f"{self.subject.name}: {text}"))
