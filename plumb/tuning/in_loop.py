"""Tuning of a loader from the first measurement to its plan, with or without the user's loop."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from plumb.core import events
from plumb.core.config import Config
from plumb.core.errors import UsersError
from plumb.core.log import logger
from plumb.core.plan import Claim, EndToEnd, LoaderResult, Measured, Rejection, RejectionCause
from plumb.core.thresholds import EQUAL
from plumb.host import Limits
from plumb.host.cpu_load import OthersLoad
from plumb.host.malloc import baseline_malloc
from plumb.host.pinned_memory import is_pinnable
from plumb.model import resource_bounds, serialization
from plumb.runtime.loader import current_config
from plumb.tracing.device.profile import uses_accelerator
from plumb.tuning import explanations
from plumb.tuning.companion_tuning import CompanionTuning
from plumb.tuning.epoch_claim import claim_of, is_worth_having
from plumb.tuning.epoch_rehearsal import NO_COSTS, PlanLeftError
from plumb.tuning.loader_under_test import LoaderUnderTest, TrainingStep, TuningResult
from plumb.tuning.loop_changes import LoopChanges
from plumb.tuning.loop_results import (
    after_comparison,
    may_be_drift,
    rate_over_turns,
    readings_of_turns,
    unchanged_loop,
    waiting_share,
    with_shares,
)
from plumb.tuning.measure.collective_wait import collective_waits, shows_collective_waits
from plumb.tuning.measure.known_loader import KnownLoader
from plumb.tuning.measure.loop_companions import Companions
from plumb.tuning.measure.loop_comparison import LoopComparison, compare_in_loop
from plumb.tuning.measure.replayed_batches import replayed
from plumb.tuning.measure.samples_per_batch import samples_per_batch
from plumb.tuning.measure.training_loop import ErrorForLoop, LoopMeter, LoopReading, MeasurementCoroutine
from plumb.tuning.options import Options
from plumb.tuning.overtime import late_seconds
from plumb.tuning.plain_plan import compare_plain_in_loop, plain_result
from plumb.tuning.restraint import changed_by_loop
from plumb.tuning.script_forecast import between_epochs
from plumb.tuning.spending import Spending
from plumb.tuning.tuner import Tuner

_log = logger(__name__)

_KEPT_BATCHES = 2
# Time is reserved for this many pairs of windows of the loop before and after; at least three give an answer.
_PAIRS = 4
# If earlier phases used up the time, the comparison may exceed the budget by this share: a late answer is better than
# none.
_OVERTIME_SHARE = 0.2
# Largest share of the time for comparing torch's own arguments alone in the loop, if the best configuration goes beyond
# them.
_PLAIN_SHARE = 0.08
# Shares of the batches of a loop with a fixed number of them, for each measurement.
_SHARE_BEFORE, _SHARE_STEP = 0.25, 0.15
# Largest shares of the time for these measurements if steps are slow, because later phases need time too.
_TIME_BEFORE, _TIME_STEP = 0.25, 0.2
# Length of the pauses that show whether a device works asynchronously, as a share of its step.
_PAUSE_SHARE = 0.5
# A loader that doesn't feed the training matters less, so its windows are shorter by this factor.
_WINDOW_SCALE_ALONE = 0.6


class TuningWork:
    """Tuner of every loader of a script (a `session.Work`)."""

    only_one = False

    def __init__(self, options: Options, emit: Callable[[events.Event], None]) -> None:
        self._options = options
        self._emit = emit

    def run_in_loop(
        self, known: KnownLoader, loader: DataLoader[Any], loop: LoopMeter, own: Iterator[Any], deadline: float
    ) -> MeasurementCoroutine[events.Event]:
        """Tune a loader through the user's loop: baseline, step rate, trials, then winner and baseline in turns.

        Args:
            known: The loader as it was seen in the script.
            loader: The loader.
            loop: The user's loop.
            own: Batches of the user's own loader.
            deadline: End in `time.perf_counter` seconds, which may be exceeded a little.
        """
        with collective_waits(self._options.ranks) as loop.waits, baseline_malloc():
            return (yield from self._tune_in_loop(known, loader, loop, own, deadline))

    def _tune_in_loop(
        self, known: KnownLoader, loader: DataLoader[Any], loop: LoopMeter, own: Iterator[Any], deadline: float
    ) -> MeasurementCoroutine[events.Event]:
        window_seconds, spent, begun = self._options.window_seconds, Spending(), time.perf_counter()
        # The loop itself is among the callers.
        between = between_epochs(sys._getframe(), loader, known.site)
        if not loader.num_workers:
            loop.changes = LoopChanges(loader)
        together = CompanionTuning(loop)
        before, step = yield from self._measure_loop(known, loader, loop, own, deadline)
        readings = [before] if before else []
        is_soon = time.perf_counter() - begun < _TIME_BEFORE * (deadline - begun)
        if before and step and is_soon and may_be_drift(before, step) and math.isinf(loop.batches_at_most):
            again, step_again = yield from self._measure_loop(known, loader, loop, own, deadline)
            readings += [again] if again else []
            step = max(step, step_again or step, key=lambda found: found.samples_per_second)
        waiting = waiting_share(rate_over_turns(readings), step) if readings else None
        burning = step and dataclasses.replace(
            step, cpu_seconds=step.cpu_seconds + together.cpu_seconds(loop.samples_per_batch)
        )
        subject = LoaderUnderTest(
            known.name,
            loader,
            loop.samples_per_batch,
            burning,
            waiting,
            _changed(loop),
            loop.open,
            loop.skips,
            between,
            was_read=True,
        )
        plain_seconds = (
            0.0 if self._options.plain else min(2 * _PAIRS * window_seconds, _PLAIN_SHARE * (deadline - begun))
        )
        seconds = (deadline - time.perf_counter() - 2 * _PAIRS * window_seconds - plain_seconds) / (1 + together.count)
        latest = deadline + late_seconds(self._options.budget_seconds)

        def tuner_of(subject: LoaderUnderTest, limits: Limits) -> Tuner:
            return Tuner(
                subject, dataclasses.replace(self._options, limits=limits), seconds, window_seconds, self._emit
            )

        tuner, choice = yield from _chosen(lambda of: tuner_of(of, self._options.limits), subject, loop)
        if between.changed or between.is_made_anew:
            choice = choice.noting(explanations.changed_between_epochs(between))
        together.tune(choice, step, waiting, self._options.limits, tuner_of)
        if loop.open and step is not None and step.wants_pinned:
            choice = _with_pinned(choice)
        in_loop, undecided = None, ""
        wanted = choice.untried or choice.tuned.config
        is_taken = False

        def loader_on(config: Config, plain: bool = False) -> DataLoader[Any]:
            together.start(plain)
            return tuner.loader(config)

        if loop.open and (wanted != choice.baseline.config or together.wants_change()):
            self._say(known, "your loop before and after, in turns")
            others = OthersLoad()
            sides = (choice.baseline.config, own), (wanted, lambda: loader_on(wanted))
            until = max(deadline, time.perf_counter() + _OVERTIME_SHARE * self._options.budget_seconds) - plain_seconds
            compared = yield from compare_in_loop(
                loop, *sides, window_seconds, until, latest, _batch_seconds(loop, readings), together.companions.switch
            )
            compared = together.finished(compared)
            is_taken = compared.is_taken
            readings = readings_of_turns(readings, compared.own)
            if readings:
                waiting = waiting_share(rate_over_turns(readings), step)
            named = together.named(wanted)
            choice, in_loop = after_comparison(choice, wanted, compared, step, named)
            if in_loop is None and compared.is_open:
                crowd, budget = others.cpus(), self._options.budget_seconds
                undecided = explanations.undecided(named, compared.ratio, waiting, crowd, budget)
                choice = choice.rejecting(
                    Rejection(
                        wanted,
                        "undecided",
                        compared.gain,
                        others_cpus=crowd,
                        enough_seconds=explanations.enough_seconds(budget),
                    )
                )
        plainly = None
        is_plain_other = choice.plain.config != wanted or together.is_plain_other
        if is_plain_other and (choice.plain.config != choice.baseline.config or together.wants_change(plain=True)):
            self._say(known, "your loop on DataLoader's own arguments alone, in turns")
            until = max(deadline, time.perf_counter() + plain_seconds)
            plainly = yield from compare_plain_in_loop(
                loop,
                own,
                choice,
                lambda config: loader_on(config, plain=True),
                window_seconds,
                until,
                latest,
                _batch_seconds(loop, readings),
                together.companions.switch,
            )
            plainly = together.finished(plainly) if plainly else None
            readings = readings_of_turns(readings, plainly.own if plainly else ())
            if plainly is not None and plainly.is_taken and in_loop is None:
                choice, in_loop = after_comparison(
                    dataclasses.replace(choice, tuned=choice.plain), choice.plain.config, plainly, step
                )
                together.take_plain()
                undecided, is_taken = "", True
            elif plainly is not None and not plainly.is_taken:
                cause: RejectionCause = (
                    "failed" if plainly.failure else "undecided" if plainly.is_open else "not faster"
                )
                choice = choice.rejecting(Rejection(choice.plain.config, cause, plainly.gain, detail=plainly.failure))
        if _changed(loop) and choice.plain.config.makes_ahead:
            choice, plainly = dataclasses.replace(choice, plain=choice.baseline), None
        if _changed(loop) and choice.tuned.config.makes_ahead:
            choice = choice.rejecting(Rejection(choice.tuned.config, "changing dataset", detail=_changed(loop)))
            choice, in_loop, undecided = dataclasses.replace(choice, tuned=choice.baseline), None, ""
            choice = choice.noting(changed_by_loop(_changed(loop)))
        if in_loop is None and readings and choice.tuned.config == choice.baseline.config:
            in_loop = unchanged_loop(readings, waiting)
        if not loop.open:
            why = "ended" if loop.has_ended else "was left, so that its epoch did not end,"
            note = f"your loop {why} after {loop.batches_given} batches; the rest was measured without it"
            choice = choice.noting(note)
        choice = together.note(choice)
        if loop.pauses.seconds:
            choice = choice.noting(explanations.paused(loop.pauses.seconds))
        if self._options.ranks > 1:
            note = explanations.among_ranks(self._options.ranks, shows_collective_waits())
            choice = choice.noting(note)
        choice = choice.having_loaded(loop.batches_given * loop.samples_per_batch)
        planned = self._plan(
            known, loader, loop.samples_per_batch, choice, step, in_loop, spent, plainly, bool(together.count)
        )
        is_plain_taken = plainly is None or plainly.is_taken
        for each in together.tuned:
            theirs = each.settle(is_taken, is_plain_taken and (is_taken or is_plain_other), known.name)
            of, reached = each.companion, each.in_loop(in_loop)
            of.result = self._plan(
                of.known, of.loader, each.samples_per_batch, theirs, each.step, reached, each.spent, plainly, True
            )
        for text in together.untuned:
            self._emit(events.Warned(text))
        try:
            claim = self._claim(known, planned.plan, choice, in_loop, tuner, latest)
        except PlanLeftError as error:
            choice = choice.rejecting(Rejection(choice.tuned.config, "not kept up", detail=str(error)))
            choice = choice.noting(explanations.left_in_rehearsal(choice.tuned.config, str(error)))
        else:
            if claim is None or is_worth_having(claim) or together.count:
                return events.LoaderDone(dataclasses.replace(planned.plan, undecided=undecided, claim=claim))
            choice = choice.rejecting(Rejection(choice.tuned.config, "epochs", in_loop.gain if in_loop else None))
            choice = choice.noting(explanations.eaten_by_starts(choice.tuned.config, claim))
        plain = choice.baseline if choice.plain.config == choice.tuned.config else choice.plain
        choice = dataclasses.replace(choice, tuned=choice.baseline, plain=plain)
        as_it_is = unchanged_loop(readings, waiting) if readings else None
        return self._plan(known, loader, loop.samples_per_batch, choice, step, as_it_is, spent, plainly)

    def _claim(
        self,
        known: KnownLoader,
        planned: LoaderResult,
        choice: TuningResult,
        in_loop: EndToEnd | None,
        tuner: Tuner,
        until: float = 0.0,
    ) -> Claim | None:
        """Return the expected rates of whole epochs of `plumb run`, measured by `until`; None if nothing changes."""
        if planned.config == planned.baseline.config:
            return None
        if in_loop is not None:
            self._say(known, "what an epoch of `plumb run` costs")
        costs = tuner.epoch_costs(planned, choice.inputs, until) if in_loop is not None else NO_COSTS
        return claim_of(planned, choice, in_loop, costs, tuner.subject.epoch_samples)

    def _measure_loop(
        self, known: KnownLoader, loader: DataLoader[Any], loop: LoopMeter, own: Iterator[Any], deadline: float
    ) -> MeasurementCoroutine[tuple[LoopReading | None, TrainingStep | None]]:
        """Measure the loop on its own batches, and its step when batches are ready."""
        window_seconds, begun = self._options.window_seconds, time.perf_counter()
        self._say(known, "your loop as it is")
        in_flight = current_config(loader).batches_in_flight
        until = begun + _TIME_BEFORE * (deadline - begun)
        round_of = max(loader.num_workers, 1)
        before = yield from loop.measure(
            own, in_flight + 1, 2 * window_seconds, until, _SHARE_BEFORE, per_round=round_of
        )
        companions = Companions(loop.companions)
        companions.confirm(loop.batches_given)
        self._say(known, "how fast your loop could go")
        until = time.perf_counter() + _TIME_STEP * (deadline - begun)
        companions.give_replayed()
        step = yield from _step(loop, own, loader.pin_memory, window_seconds, until)
        companions.give_own()
        return before, step

    def run_alone(self, known: KnownLoader, loader: DataLoader[Any], seconds: float) -> events.Event:
        """Tune a loader without a training loop for its own rate, without a step rate."""
        window_seconds = _WINDOW_SCALE_ALONE * self._options.window_seconds
        note = "tuned on its own, without a step rate: no training loop was seen to use it"
        if known.read_beside:
            note = (
                f"tuned on its own, without a step rate: the loop of {known.read_beside} was seen to read it, but ended"
            )
        return self.run_for_step(known, loader, seconds, None, window_seconds, note)

    def run_for_step(
        self,
        known: KnownLoader,
        loader: DataLoader[Any],
        seconds: float,
        step: TrainingStep | None,
        window_seconds: float,
        *notes: str,
    ) -> events.LoaderDone:
        """Tune a loader without a loop, for a step.

        Args:
            known: The loader as it was seen.
            loader: The loader.
            seconds: Budget.
            step: Step with a known rate; None to tune for the loader's own rate.
            window_seconds: Length of a measurement window.
            *notes: Sentences for the plan.
        """
        per_batch, spent = samples_per_batch(loader, known.samples_per_batch), Spending()
        subject = LoaderUnderTest(known.name, loader, per_batch, step, None, skips=known.skips, was_read=known.is_used)
        tuner = Tuner(subject, self._options, seconds, window_seconds, self._emit)
        with baseline_malloc():
            choice = tuner.choose()
        choice = dataclasses.replace(choice, notes=(*choice.notes, *notes))
        planned = self._plan(known, loader, per_batch, choice, step, None, spent).plan
        claim = self._claim(known, planned, choice, None, tuner)
        return events.LoaderDone(dataclasses.replace(planned, claim=claim, undecided=choice.undecided))

    def _plan(
        self,
        known: KnownLoader,
        loader: DataLoader[Any],
        samples_per_batch: float,
        choice: TuningResult,
        step: TrainingStep | None,
        in_loop: EndToEnd | None,
        spent: Spending,
        plainly: LoopComparison | None = None,
        is_one_of_several: bool = False,
    ) -> events.LoaderDone:
        pipeline, device = choice.available.pipeline, choice.available.device
        return events.LoaderDone(
            LoaderResult(
                name=known.name,
                site=str(known.site),
                dataset=type(loader.dataset).__name__,
                batch_size=known.batch_size,
                samples_per_batch=samples_per_batch,
                baseline=choice.baseline,
                tuned=choice.tuned,
                predicted=resource_bounds.predict(choice.inputs, choice.tuned.config),
                step_samples_per_second=step.samples_per_second if step else None,
                # A loop's waiting can't be split among several loaders.
                end_to_end=in_loop if is_one_of_several or in_loop is None else with_shares(in_loop, choice),
                sample=choice.inputs.cost_in_worker,
                trials=choice.trials,
                rewrites=choice.available.rewrites,
                graph=pipeline.to_node_link() if pipeline else None,
                device=device.to_dict() if device else None,
                notes=choice.notes,
                cost=spent.on(choice.samples_loaded),
                model=serialization.to_plain(choice.inputs, choice.search_space),
                library=known.site.library,
                identity=known.identity,
                construction=known.construction,
                workers_compared=choice.search_space.num_workers if isinstance(loader.dataset, IterableDataset) else (),
                plain=plain_result(choice, in_loop.gain if in_loop else None, plainly),
                rejected=choice.rejected,
            )
        )

    def _say(self, known: KnownLoader, text: str) -> None:
        _log.info("%s: %s", known.name, text)
        self._emit(events.Phase(f"{known.name}: {text}"))


def _chosen(
    tuner_of: Callable[[LoaderUnderTest], Tuner], subject: LoaderUnderTest, loop: LoopMeter
) -> MeasurementCoroutine[tuple[Tuner, TuningResult]]:
    """Return a tuner and its choice; an error of a sample is raised in the loop, which may go on after it.

    Raises UsersError with an error that the loop is known to go on after, or if the loop has ended.
    """
    while True:
        tuner = tuner_of(subject)
        try:
            return tuner, tuner.choose()
        except UsersError as users:
            error = users.error
            if not loop.open or not isinstance(error, Exception) or isinstance(error, loop.skips):
                raise
        yield ErrorForLoop(error)
        loop.skips = (*loop.skips, type(error))
        subject = dataclasses.replace(subject, skips=loop.skips)


def _batch_seconds(loop: LoopMeter, readings: Sequence[LoopReading]) -> float:
    return loop.samples_per_batch / rate_over_turns(readings).samples_per_second if readings else 0.0


def _with_pinned(choice: TuningResult) -> TuningResult:
    """Return the choice with page-locked memory, to be compared in the loop, if nothing else is to change.

    Only the loop shows the gain from page-locked memory.
    """

    def pinned(measured: Measured) -> Measured:
        own = choice.baseline.config
        if measured.config != own:
            return measured
        return dataclasses.replace(measured, config=dataclasses.replace(own, pin_memory=True))

    return dataclasses.replace(choice, tuned=pinned(choice.tuned), plain=pinned(choice.plain))


def _changed(loop: LoopMeter) -> str:
    return loop.changes.place if loop.changes is not None else ""


def _step(
    loop: LoopMeter, own: Iterator[Any], pin: bool, seconds: float, deadline: float
) -> MeasurementCoroutine[TrainingStep | None]:
    """Measure the training step with ready batches; return None if the loop has ended.

    If a GPU takes batches from pageable memory, page-locked ones are measured too, and the better rate counts.
    """
    if not loop.open:
        return None
    kept: list[Any] = []
    while len(kept) < _KEPT_BATCHES:
        kept.append((yield from loop.next_of(own)))

    def measured(pin: bool) -> MeasurementCoroutine[LoopReading | None]:
        return loop.measure(replayed(kept, pin), 1, seconds, deadline, _SHARE_STEP, waiting_counts=False)

    reading = yield from measured(pin)
    if reading is None:
        return None
    step = TrainingStep(reading.rate.samples_per_second, reading.cpu_seconds, blocks=True)
    if not uses_accelerator():
        return step
    step = dataclasses.replace(
        step, blocks=(yield from _waits_for_device(loop, replayed(kept, pin), reading, seconds, deadline))
    )
    if pin or not loop.open or not is_pinnable(kept[0]):
        return step
    locked = yield from measured(True)
    if locked is None or locked.rate.interval[0] <= (1 + EQUAL) * reading.rate.interval[1]:
        return step
    return TrainingStep(locked.rate.samples_per_second, locked.cpu_seconds, step.blocks, step.samples_per_second)


def _waits_for_device(
    loop: LoopMeter, batches: Iterator[Any], reading: LoopReading, seconds: float, deadline: float
) -> MeasurementCoroutine[bool]:
    """Return whether the loop waits for an accelerator to finish its step, measured with pauses between two steps.

    An asynchronous accelerator works during the pauses, which are not counted, so its steps seem shorter.
    """
    step_seconds = loop.samples_per_batch / reading.rate.samples_per_second
    pause_seconds = _PAUSE_SHARE * step_seconds
    batches = _paused(batches, pause_seconds)
    paused = yield from loop.measure(batches, 1, seconds, deadline, _SHARE_STEP, waiting_counts=False)
    if paused is None:
        return False
    return loop.samples_per_batch / paused.rate.samples_per_second > step_seconds - pause_seconds / 2


def _paused(batches: Iterator[Any], seconds: float) -> Iterator[Any]:
    for batch in batches:
        time.sleep(seconds)
        yield batch
