"""Notes of a tuning's result: what limited it, what was left out and why, in the order in which reports print them."""

from __future__ import annotations

from dataclasses import dataclass

from plumb.core.config import Config
from plumb.core.plan import Rejection
from plumb.instrument.fork_safety import Handle
from plumb.instrument.saved_state import is_stateful
from plumb.model import planner, resource_bounds
from plumb.model.contributions import rates_without_each
from plumb.model.inputs import ModelInputs, SearchSpace
from plumb.rewrites.find_rewrites import AvailableRewrites
from plumb.tracing.device.profile import has_accelerator
from plumb.tuning import explanations
from plumb.tuning.iterable_sharding import Sharding
from plumb.tuning.loader_under_test import LoaderUnderTest
from plumb.tuning.measure.paired_comparison import Answer
from plumb.tuning.options import Options
from plumb.tuning.restraint import Restraint
from plumb.tuning.search.ledger import TrialResult
from plumb.tuning.search.search_space import WorkerStart, why_handles_matter, why_not_forked
from plumb.tuning.trials import PairedLook

# Other processes are mentioned if they take more than this share of the CPUs.
_CROWDED = 0.2


@dataclass(frozen=True)
class Outcome:
    """What a tuning came to, and what it met on the way.

    `closest` is the configuration that came closest to the user's without being better, `paired` the comparison in
    pairs of the best with the user's, `promising` the model's best if nothing could be tried, `uncompared` the best
    finalist if there was no time for finals. `known` counts the configurations that an interrupted tuning had measured.
    Others kept `others_cpus` of `usable_cpus` busy. `sharding` is None for a dataset that is read by indices, `held`
    has what forked workers must not use.
    """

    own: TrialResult
    winner: TrialResult
    closest: TrialResult | None
    paired: PairedLook | None
    promising: planner.Candidate | None
    uncompared: TrialResult | None
    known: int
    others_cpus: float
    usable_cpus: float
    sharding: Sharding | None
    held: tuple[Handle, ...]


def notes(
    outcome: Outcome,
    subject: LoaderUnderTest,
    options: Options,
    seconds: float,
    search_space: SearchSpace,
    inputs: ModelInputs,
    available: AvailableRewrites,
    start: WorkerStart,
    restraint: Restraint,
    has_nothing_to_gain: bool,
) -> tuple[str, ...]:
    """Return the sentences for a report.

    Args:
        outcome: What the tuning came to.
        subject: The loader.
        options: The user's limits and permissions.
        seconds: Time that the tuning had.
        search_space: Everything that could be changed.
        inputs: What the model was told.
        available: Validated rewrites.
        start: Possible start of workers.
        restraint: Restrictions that the samples showed.
        has_nothing_to_gain: Whether the loop hardly waits for data.
    """
    chosen = outcome.winner.config
    return (
        *_decision(outcome, subject, seconds, has_nothing_to_gain),
        *_workers(subject, start, restraint),
        *_model(chosen, subject, search_space, inputs, available, has_nothing_to_gain),
        *_host(outcome, options),
        *_handles(outcome, start, restraint),
        *_permissions(outcome, options, available),
    )


def undecided(outcome: Outcome, options: Options) -> str:
    """Return a sentence on a candidate that may be better; empty if the pairs have decided, or if there are none."""
    paired = outcome.paired
    if paired is None or paired.ratio.is_taken or paired.ratio.answer is not Answer.UNDECIDED:
        return ""
    return explanations.undecided(
        paired.candidate.config, paired.ratio, None, outcome.others_cpus, options.budget_seconds, "it"
    )


def rejected_in_pairs(outcome: Outcome, options: Options) -> tuple[Rejection, ...]:
    """Return the candidate that was compared in pairs, without a loop, and not chosen; nothing if it was chosen."""
    paired = outcome.paired
    if paired is None or paired.ratio.is_taken:
        return ()
    is_open = paired.ratio.answer is Answer.UNDECIDED
    rejection = Rejection(
        paired.candidate.config,
        "undecided" if is_open else "not faster",
        paired.ratio.gain,
        in_loop=False,
        others_cpus=outcome.others_cpus,
        enough_seconds=explanations.enough_seconds(options.budget_seconds) if is_open else None,
    )
    return (rejection,)


def _decision(outcome: Outcome, subject: LoaderUnderTest, seconds: float, has_nothing_to_gain: bool) -> list[str]:
    found = []
    if has_nothing_to_gain:
        found.append(
            f"nothing to gain: your loop waits for data {subject.waiting_share:.1%} of its time, and no "
            "configuration can save more than that"
        )
    if outcome.closest is not None and outcome.closest.loader is not None:
        rate = outcome.closest.loader.samples_per_second
        found.append(f"nothing better within noise: {outcome.closest.config} came closest, at {rate:,.0f} samples/s")
    if outcome.paired is not None:
        found.append(explanations.in_pairs(outcome.paired.candidate.config, outcome.paired.ratio))
    if outcome.promising is not None:
        found.append(explanations.untried(outcome.promising, seconds))
    if outcome.uncompared is not None and outcome.uncompared.config != outcome.winner.config:
        found.append(explanations.uncompared(outcome.uncompared, seconds))
    return found


def _workers(subject: LoaderUnderTest, start: WorkerStart, restraint: Restraint) -> list[str]:
    found = [reason for reason in (start.why_not, restraint.other_workers) if reason]
    return [*found, explanations.stateful(type(subject.loader).__name__)] if is_stateful(subject.loader) else found


def _model(
    chosen: Config,
    subject: LoaderUnderTest,
    search_space: SearchSpace,
    inputs: ModelInputs,
    available: AvailableRewrites,
    has_nothing_to_gain: bool,
) -> list[str]:
    found = [explanations.pooled(inputs.pool_cpus)] if inputs.pool_cpus else []
    if subject.step and subject.step.pageable_samples_per_second is not None:
        found.append(explanations.pinned(subject.step.samples_per_second, subject.step.pageable_samples_per_second))
    if chosen.worker_torch_threads == 1 and chosen.needs_runtime:
        rate = resource_bounds.loader_rate(inputs, chosen)
        found.append(explanations.contributed(rate, rates_without_each(inputs, chosen)))
    if not has_nothing_to_gain:
        found += explanations.binding(search_space, inputs)
        found += [available.whole_batches.in_words(chosen)] if available.whole_batches else []
    return found


def _host(outcome: Outcome, options: Options) -> list[str]:
    found = []
    if outcome.known:
        found.append(f"{outcome.known} configurations were known from a tuning that was interrupted")
    others, usable = outcome.others_cpus, outcome.usable_cpus
    if usable - others < (1 - _CROWDED) * options.limits.cpus:
        found.append(
            f"other processes kept {others:.1f} of these {usable} CPUs busy meanwhile: on a quiet host, the answer "
            "may be another one"
        )
    return found


def _handles(outcome: Outcome, start: WorkerStart, restraint: Restraint) -> list[str]:
    if outcome.held and outcome.own.config.num_workers:
        return [why_handles_matter(outcome.held, outcome.own.config.num_workers)]
    if start.method and (outcome.held or restraint.forked):
        return [why_not_forked(outcome.held, restraint.forked, start.method)]
    return []


def _permissions(outcome: Outcome, options: Options, available: AvailableRewrites) -> list[str]:
    found = []
    if options.on_device:
        deferral = available.rewrites.deferral if outcome.winner.config.deferred else None
        found.append(explanations.arriving(deferral, has_accelerator()))
    if outcome.sharding is not None:
        workers = outcome.own.config.num_workers
        found.append(explanations.shared_out(outcome.sharding, workers, options.may_reorder))
    return found
