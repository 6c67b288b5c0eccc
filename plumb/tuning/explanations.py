"""Sentences of a plan: the model's predictions for a choice, and obstacles to better ones."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence

from plumb.core.config import Config, Deferral
from plumb.core.plan import Claim
from plumb.core.thresholds import CROWD_CPUS, WIDE
from plumb.core.units import format_bytes, format_pairs, format_seconds
from plumb.model import planner
from plumb.model.concurrency_climb import ClimbEnd, SourceCapacity
from plumb.model.inputs import ModelInputs, SearchSpace
from plumb.tuning.iterable_sharding import Sharding
from plumb.tuning.measure.paired_comparison import PairedRatio
from plumb.tuning.script_forecast import BetweenEpochs
from plumb.tuning.search.ledger import TrialResult

# A limit binds if the model predicts at least this multiple of the rate without it.
_BINDS = 1.05
# The fewest connections are reported that reach this share of the highest rate.
_NEXT_TO_ALL = 0.95
# An undecided comparison needs this multiple of the time.
_LONGER = 3
_FIELDS = {
    "memory": "memory_bytes",
    "shared memory": "shm_bytes",
    "open files": "open_files",
    "processes": "processes",
}


def binding(search_space: SearchSpace, inputs: ModelInputs) -> list[str]:
    """Return a sentence for each limit that prevents a faster configuration, by the model."""
    ranking = planner.rank(search_space, inputs)
    now = ranking.best[0].samples_per_second if ranking.best else 0.0
    found = []
    for name, attribute in _FIELDS.items():
        if name not in ranking.excluded:
            continue
        limits = dataclasses.replace(inputs.limits, **{attribute: math.inf})  # type: ignore[arg-type]
        better = planner.rank(search_space, dataclasses.replace(inputs, limits=limits)).best
        if better and better[0].samples_per_second >= _BINDS * now:
            allowed = getattr(inputs.limits, attribute)
            much = format_bytes(allowed) if attribute.endswith("_bytes") else f"{allowed:,.0f}"
            source = inputs.limits.sources.get(attribute)
            found.append(
                f"{name} is a limit: with more than the {much} allowed{f' ({source})' if source else ''}, "
                f"{better[0].config} would reach {better[0].samples_per_second:,.0f} samples/s in your loop, by the "
                f"model, instead of {now:,.0f}"
            )
    return found + ([capacity(inputs.source)] if inputs.source else [])


def capacity(source: SourceCapacity) -> str:
    """Return a sentence on the rate of the samples' source, the connections that it needs, and the rate beyond."""
    if not source.reads:
        return f"the samples' source gives nothing: {source.reason}"
    best = source.samples_per_second_at_most
    curve = zip(source.reads, source.samples_per_second, strict=True)
    reads, rate = next((reads, rate) for reads, rate in curve if rate >= _NEXT_TO_ALL * best)
    connections = f"{reads} connections (samples read at once)" if reads > 1 else "one connection"
    gives = f"the samples' source gives {rate:,.0f} samples/s at {connections}"
    most = source.most_reads
    match source.end:
        case ClimbEnd.FLAT:
            return f"{gives} and no more beyond"
        case ClimbEnd.PROCESS:
            return f"{gives} and no more beyond to one process; there was no time to look at several"
        case ClimbEnd.LESS:
            return f"{gives} and less beyond {most}"
        case ClimbEnd.TRIED_AGAIN:
            return f"{gives}; beyond {most}, connections are dropped and have to be tried again"
        case ClimbEnd.FAILED:
            return f"{gives}; {source.reason}"
        case ClimbEnd.CPU:
            return f"{gives}; beyond that, the CPU held the readers up, not the source"
        case ClimbEnd.MOST:
            return f"{gives}, the most that were of use or allowed"
        case ClimbEnd.TIME:
            return f"{gives}; more were not looked at: {source.reason}"


def contributed(rate: float, without: dict[str, float]) -> str:
    """Return a sentence on the predicted rate, and the rates without each part, in samples per second."""
    parts = ", ".join(f"{other:,.0f} without {name}" for name, other in without.items())
    return f"by the model, {rate:,.0f} samples/s; {parts}"


def untried(promising: planner.Candidate, seconds: float) -> str:
    """Return a sentence on the model's best configuration if there was no time to try it."""
    rate = promising.training_samples_per_second
    return _no_time(f"try {promising.config}, which by the model would reach {rate:,.0f}", seconds)


def uncompared(promising: TrialResult, seconds: float) -> str:
    """Return a sentence on the best measured configuration if there was no time to compare it in turns."""
    assert promising.loader is not None
    rate = promising.loader.samples_per_second
    return _no_time(f"compare {promising.config} with yours by turns; alone, it reached {rate:,.0f}", seconds)


def not_faster_in_loop(config: Config | str, ratio: PairedRatio, is_measured: bool) -> str:
    """Return a sentence that a candidate had no worthwhile gain in the user's loop.

    `is_measured` says that it was measured alone before; else the model proposed it.
    """
    return f"nothing better: your loop ran {_times(ratio)} with {config}, the best {_basis(is_measured)}"


def paused(pauses: Sequence[float]) -> str:
    """Return a sentence that long breaks between two batches are left out of a loop's rates."""
    times = "once" if len(pauses) == 1 else f"{len(pauses)} times"
    return (
        f"your loop paused between two batches {times}, for {format_seconds(sum(pauses))} in all, as for validation or "
        "a checkpoint: that is no waiting for data, and left out of its rates"
    )


def beside(names: Sequence[str]) -> str:
    """Return a sentence that a loop also reads other loaders, and the consequence for its rates."""
    listed = " and ".join(names)
    return (
        f"your loop reads {listed} in its steps, too: they were tuned together, and what the loop waits and gains is "
        "for all of them"
    )


def feeds(through: str) -> str:
    """Return a sentence that a loader feeds the same loop as another one, through which the loop was measured."""
    return f"feeds the same loop as {through}: what that loop waits and gains is for both of them together"


def failed_in_loop(config: Config | str, failure: str, is_measured: bool) -> str:
    """Return a sentence that a candidate failed in the user's loop; `is_measured` as in `not_faster_in_loop`."""
    return (
        f"{config} was the best {_basis(is_measured)}, and failed in your loop ({failure}): your own configuration "
        "stays"
    )


def changed_between_epochs(between: BetweenEpochs) -> str:
    """Return a sentence on why no store is offered, with the statement that changes the dataset between epochs."""
    if between.changed:
        why = f"your script changes its dataset by {between.changed}"
    else:
        why = "your script makes this loader anew for each of them"
    return f"storing samples in memory was not tried: each epoch would throw them away, as {why}"


def eaten_by_starts(config: Config, claim: Claim) -> str:
    """Return a sentence that a candidate's epochs lose at their starts what it gains while it runs."""
    return (
        f"nothing better by the clock: {config} was faster while it ran, but with what beginning and ending an epoch "
        f"costs, an epoch would go at {claim.later:,.0f} samples/s ({claim.first:,.0f} the first) instead of "
        f"{claim.own:,.0f}"
    )


def left_in_rehearsal(config: Config, reason: str) -> str:
    """Return a sentence that a candidate could not be kept up for a few epochs of a run."""
    return f"nothing better: {config} could not be kept up for an epoch of `plumb run` ({reason})"


def in_pairs(candidate: Config, ratio: PairedRatio) -> str:
    """Return a sentence on a comparison in pairs, without a loop."""
    return f"in turns with your own configuration, {candidate} ran {_times(ratio)}"


def undecided(
    candidate: Config | str,
    ratio: PairedRatio | None,
    waiting: float | None,
    others_cpus: float,
    budget_seconds: float,
    what: str = "your loop",
) -> str:
    """Return a sentence on a candidate that may be better, why that is open, and the time that would settle it.

    `what` was compared: the user's loop, or the loader alone.
    """
    is_slower = ratio is not None and ratio.ratio < 1.0
    doubt = f"whether {candidate} is better is open" if is_slower else f"{candidate} may be better"
    known = f"{what} ran {_times(ratio)}" if ratio else "there was no time left to try it in your loop"
    waits = f"your loop waits for data {waiting:.0%} of its time, and " if waiting is not None else ""
    crowd = f"; other processes took {others_cpus:.1f} CPUs meanwhile" if others_cpus >= CROWD_CPUS else ""
    return f"{waits}{doubt}: {known}{crowd}. More time settles it: --budget {enough_seconds(budget_seconds):.0f}"


def enough_seconds(budget_seconds: float) -> float:
    """Return the budget that would probably settle an undecided comparison, in seconds."""
    return _LONGER * budget_seconds


def _basis(is_measured: bool) -> str:
    return "alone" if is_measured else "by the model"


def _times(ratio: PairedRatio) -> str:
    low, high = ratio.interval
    pairs = format_pairs(ratio.pairs)
    is_wide = ratio.is_bounded and high > WIDE * low
    unsure = f"in {pairs}, too {'unequal' if is_wide else 'few'} to be sure"
    bounds = f"{low:.2f} to {high:.2f} in {pairs}" if ratio.is_bounded and not is_wide else unsure
    return f"{ratio.ratio:.2f} times as fast ({bounds})"


def _no_time(what: str, seconds: float) -> str:
    return (
        f"the {max(seconds, 0.0):.1f} s that were left did not suffice to {what} samples/s: allow more time, with "
        "--budget or budget="
    )


def pooled(cpus: float) -> str:
    """Return a sentence on what a library's own threads do in workers, and what to write instead."""
    name, instead = "a library's", "OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1 in the environment leave"
    if "cv2" in sys.modules:
        name, instead = "OpenCV's or another library's", "cv2.setNumThreads(0) in the script leaves"
    return (
        f"while a sample is made, threads of {name} own keep {cpus:.1f} more CPUs busy, and in every worker they may: "
        f"{instead} the cores to the workers"
    )


def arriving(deferral: Deferral | None, has_gpu: bool) -> str:
    """Return a sentence on whether batches arrive on the GPU; `deferral` is what runs on batches, if any."""
    if not has_gpu:
        return "batches don't arrive on a GPU: torch sees none here"
    if deferral is None or deferral.device is None:
        return "batches don't arrive on the GPU: nothing is computed on whole batches there"
    names = " and ".join(step.operator for step in deferral.steps)
    return f"what {names} makes arrives on {deferral.device}, where it is made"


def pinned(samples_per_second: float, pageable_samples_per_second: float) -> str:
    """Return a sentence on the step's rates with and without page-locked memory."""
    return (
        f"with batches in page-locked memory (pin_memory=True), your step takes {samples_per_second:,.0f} samples/s "
        f"from ready batches, and {pageable_samples_per_second:,.0f} without"
    )


def among_ranks(ranks: int, shows: bool) -> str:
    """Return a sentence on how a rank's loop was measured; `shows` says whether waiting for others is visible."""
    untold = "" if shows else "; what a GPU waits for other ranks is part of its step here"
    return (
        f"rank 0 of {ranks} was tuned, for its share of the host; the other ranks always had a batch ready meanwhile, "
        f"so that no step waited for their data{untold}"
    )


def workers_failed(failure: str) -> str:
    """Return a sentence on why no more workers were tried."""
    return f"no more workers were tried: two trials with workers failed alike ({failure})"


def stateful(loader: str) -> str:
    """Return a sentence on why a loader keeps its workers if checkpoints contain its place in the epoch."""
    return (
        f"the number of workers was left alone: {loader} saves its place in the epoch (state_dict), and loads what was "
        "saved only with as many workers"
    )


def shared_out(sharding: Sharding, own_workers: int, may_reorder: bool) -> str:
    """Return a sentence on an iterable dataset's use of workers, and what to write if that would help."""
    if sharding.asks is None:
        why = f" ({sharding.reason})" if sharding.reason else ""
        return f"an iterable dataset: its worker count was left alone, for more may deliver samples twice{why}"
    if not sharding.asks:
        copies = (
            f"your {own_workers} workers each deliver every sample, so an epoch holds it {own_workers} times"
            if own_workers > 1
            else "n workers would deliver every sample n times, so the worker count was left alone"
        )
        return (
            f"the iterable dataset does not ask which worker it runs in: {copies}. To share samples out, write in its "
            "__iter__: info = torch.utils.data.get_worker_info(), and where that is not None yield only "
            "itertools.islice(samples, info.id, None, info.num_workers)"
        )
    parts = ["the iterable dataset shares its samples out among workers"]
    if sharding.same:
        parts.append(f"with {_counts(sharding.same)} an epoch was compared, and is the same")
    if sharding.reordered:
        consent = "" if may_reorder else ": --allow-reorder would allow it"
        parts.append(f"with {_counts(sharding.reordered)} it is the same samples in another order{consent}")
    if sharding.reason:
        parts.append(f"other counts were left alone, for {sharding.reason}")
    return "; ".join(parts)


def _counts(workers: tuple[int, ...]) -> str:
    return "num_workers=" + " or ".join(map(str, workers))
