"""Texts for resources, configurations and results."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from plumb.core.config import TIERS, Config
from plumb.core.plan import EndToEnd, LoaderResult, Plan, Prediction, Trial, TuningCost
from plumb.core.units import format_pairs, format_rate, format_seconds
from plumb.tuning.child_orders import Target

RESOURCES = {
    "cpu": "the CPU",
    "workers": "the workers",
    "main process": "the main process",
    "storage": "the storage",
    "transfer": "the copy to the device",
    "step": "the training step",
}
_REASONS = {
    "cpu": "all cores that this process may use are busy",
    "workers": "each is busy all the time, and more of them would help",
    "main process": "it takes over batches as fast as it can",
    "storage": "it delivers no more bytes than this",
    "transfer": "it moves no more bytes than this",
    "step": "it gets its data as fast as it can take it",
}
# A loop that waits for less than this share of its time counts as not waiting.
_FED_STILL_WAITS = 0.1
# Less than this is no gain of what goes beyond torch's own arguments.
LEAST_REST = 0.005
# A model that is off by more than this factor does not know what limits a loader.
_MODEL_ERROR = 1.25
# Rates closer than this are told as one.
_SAME = 0.05
_PLACES = {"memory": "in memory", "disk": "on the disk"}
# Largest number of operators on whole batches that are named.
_NAMED = 2
# Values of torch's arguments where a configuration does not give them.
_TORCH_DEFAULTS = {"prefetch_factor": 2, "persistent_workers": False, "multiprocessing_context": None, "in_order": True}
# Parts of a training step's time: the fields of `StepShares`, in the order in which they are shown.
SHARES = {
    "step": "the training step",
    "ranks": "waiting for other ranks",
    "compute": "waiting for samples to be computed",
    "read": "waiting for reads",
    "transfer": "taking batches over",
}


def reason(prediction: Prediction, config: Config) -> str:
    """Return a text that names the bottleneck of a configuration and how it shows."""
    binding = prediction.bottleneck
    if binding == "main process" and not config.num_workers:
        return "the main process: it loads every batch itself, between two steps"
    return ": ".join(filter(None, (RESOURCES.get(binding, binding), _REASONS.get(binding))))


def bottleneck(loader: LoaderResult) -> str:
    """Return a text on a loader's bottleneck and the next one, or on a loop that waits though the model denies it."""
    predicted = loader.predicted
    waiting = loader.end_to_end.tuned_waiting_share if loader.end_to_end else None
    if predicted.bottleneck == "step" and waiting is not None and waiting > _FED_STILL_WAITS:
        return (
            f"By the model, {RESOURCES['step']} should limit it now, yet your loop still waited for data "
            f"{waiting:.0%} of its time."
        )
    measured = loader.end_to_end.tuned if loader.end_to_end else loader.tuned.samples_per_second
    if measured > _MODEL_ERROR * predicted.samples_per_second:
        expected = format_rate(predicted.samples_per_second)
        return (
            f"By the model, it is limited by {reason(predicted, loader.tuned.config)}. But that expected no more than "
            f"{expected}, less than was measured."
        )
    then = f" Beyond that, {RESOURCES.get(predicted.then, predicted.then)} would limit it." if predicted.then else ""
    return f"What limits it now is {reason(predicted, loader.tuned.config)}.{then}"


def change(before: Config, after: Config) -> str:
    """Return what changes between two configurations as an order, without details that go with a worker count.

    >>> change(Config(), Config(2, 4))
    'change num_workers to 2'
    """
    old = {**_TORCH_DEFAULTS, **before.loader_arguments()}
    new = {name: value for name, value in after.loader_arguments().items() if value != old[name]}
    if len(new) > 1 and "num_workers" in new:
        new = {name: value for name, value in new.items() if name not in ("prefetch_factor", "persistent_workers")}
    settings = listed(f"{name} to {value}" for name, value in new.items())
    orders = [f"change {settings}"] if settings else []
    if after.cache is not None and after.cache != before.cache:
        orders.append(f"store what {after.cache.after} returns {_PLACES[after.cache.tier]}")
    if after.fetch_threads > 1 and after.fetch_threads != before.fetch_threads:
        orders.append(f"load {after.fetch_threads} samples at a time in threads")
    if after.deferred and after.deferred != before.deferred:
        on_batches = f"run {_operations(after.deferred)} on whole batches"
        orders.append("read each batch by one call" if after.reads_whole_batches else on_batches)
    if after.worker_torch_threads > 1 and after.worker_torch_threads != before.worker_torch_threads:
        orders.append(f"let torch use {after.worker_torch_threads} threads in each worker")
    if after.allocator_reuse and not before.allocator_reuse and not orders:
        orders.append("use the memory of batches again")
    return listed(orders) or "load in another way"


def listed(words: Iterable[str]) -> str:
    """Return words as a list in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    *most, last = list(words) or [""]
    return f"{', '.join(most)} and {last}" if most else last


def capital(words: str) -> str:
    """Return words with a capital at their beginning."""
    return words[:1].upper() + words[1:]


def times(ratio: float) -> str:
    """Return a ratio with as many digits as a reader needs, and never 1 for what is less."""
    if 0.995 <= ratio < 1:
        return "0.99"
    digits = 2 if ratio < 2 else 1 if ratio < 9.95 else 0
    return f"{ratio:,.{digits}f}"


def loop_gain(loop: EndToEnd) -> str:
    """Return a text that says how many times as fast the user's loop is, and how certain that is."""
    times = f"{loop.ratio:.2f} times as fast"
    if loop.gain is None:
        return times
    pairs = format_pairs(loop.gain.pairs)
    if loop.gain.interval is not None and loop.gain.interval[0] > 1:
        low, high = loop.gain.interval
        return f"{times} ({low:.2f} to {high:.2f}, by {pairs})"
    return f"probably {times} (by {pairs}; the chance that it is slower is {loop.gain.slower_chance:.0%})"


def by_the_clock(loader: LoaderResult) -> list[str]:
    """Say what whole epochs of `plumb run` should take, and what those of the latest run took."""
    claim, delivered = loader.claim, loader.delivered
    told = []
    if claim is not None:
        whose = "your loop's" if claim.is_of_loop else "the loader's"
        first = "" if _alike(claim.first, claim.later) else f"; the first one {format_rate(claim.first)}"
        told.append(
            f"By the clock of `plumb run`, {whose} epochs should reach {format_rate(claim.later)}, starts included, "
            f"{claim.gain:.2f} times as fast as yours{first}."
        )
    if delivered is not None and delivered.ratio is not None:
        how = "epochs by turns" if delivered.is_by_turns else "beside the plan's figure for yours"
        rate = format_rate(delivered.later or delivered.first or 0.0)
        end = "; it went on as the script has it. Tune again" if delivered.is_slower else ""
        told.append(f"Delivered by the latest run: {rate}, {delivered.ratio:.2f} times as fast ({how}){end}.")
    elif delivered is not None and delivered.first is not None:
        told.append(f"Delivered by the latest run, which had one epoch: {format_rate(delivered.first)}.")
    return told


def starts_count(loader: LoaderResult) -> bool:
    """Return whether the loop's whole epochs are less of a gain than what its windows show while an epoch runs."""
    claim, loop = loader.claim, loader.end_to_end
    return claim is not None and claim.is_of_loop and loop is not None and not _alike(claim.gain, loop.ratio)


def _alike(one: float, other: float) -> bool:
    return abs(one - other) <= _SAME * max(one, other)


def short(config: Config) -> str:
    """Return a configuration in a few words."""
    workers, count = "no workers", config.num_workers
    if count:
        workers = f"{count} worker{'s' * (count > 1)}, prefetch {config.prefetch_factor}"
    parts = [workers]
    parts += ["persistent"] if config.persistent_workers else []
    parts += [f"by {config.start_method}"] if config.start_method else []
    parts += ["pinned"] if config.pin_memory else []
    parts += [f"{config.worker_torch_threads} torch threads"] if config.worker_torch_threads > 1 else []
    parts += [] if config.in_order else ["batches in any order"]
    parts += [f"{config.fetch_threads} loading threads"] if config.fetch_threads > 1 else []
    parts += [f"{config.cache.after} stored in {TIERS[config.cache.tier]}"] if config.cache else []
    parts += ["whole batches at once"] if config.reads_whole_batches else []
    operators = () if config.reads_whole_batches else config.deferred
    parts += [f"{_operations(operators)} on whole batches"] if operators else []
    parts += ["batch memory used again"] if config.allocator_reuse else []
    return ", ".join(parts)


def _operations(operators: Sequence[str]) -> str:
    """Return a sample's last operators by name, or their number if there are many."""
    return listed(operators) if len(operators) <= _NAMED else f"the last {len(operators)} operations"


def told_apart(configs: Sequence[Config]) -> list[str]:
    """Return configurations in words that differ wherever the configurations do."""
    words = [short(config) for config in configs]
    return [
        f"{text} ({_particulars(config)})" if words.count(text) > 1 else text
        for text, config in zip(words, configs, strict=True)
    ]


def _particulars(config: Config) -> str:
    """Return what the few words for a configuration leave out."""
    parts = [] if config.fetch_until is None else [f"threads up to {config.fetch_until}"]
    parts += [f"{listed(config.deferred)} on whole batches"] if len(config.deferred) > _NAMED else []
    if config.cache is not None:
        where = f" in {config.cache.folder}" if config.cache.folder else ""
        parts.append(f"{config.cache.bytes:,} bytes{where} for {config.cache.hit_ratio:.3%} of the samples")
    return ", ".join(parts) or "the same otherwise"


def arguments(config: Config) -> str:
    """Return a configuration as torch's keyword arguments; of those that are false, only two are spelled out."""
    given = config.loader_arguments().items()
    return ", ".join(f"{name}={value!r}" for name, value in given if value or name in ("num_workers", "in_order"))


def written_config(loader: LoaderResult) -> Config | None:
    """Return the configuration in torch's own arguments that the user can write; None if that changes nothing."""
    config, gain = loader.expressible, loader.plain_gain
    if config is None or config == loader.baseline.config:
        return None
    return None if loader.config.needs_runtime and gain is not None and gain < 1 + LEAST_REST else config


def plain_gain(loader: LoaderResult) -> str:
    """Return a text on the gains of torch's arguments and of the rest of the plan; empty if there is no rest."""
    if not loader.config.needs_runtime or loader.plain_gain is None or loader.rest_gain is None:
        return ""
    alone = f"by itself {loader.plain_gain:.2f} times as fast as now"
    if loader.rest_gain < 1 + LEAST_REST:
        return f"{alone}, and the rest of the plan adds nothing to that"
    return f"{alone}; all of the plan is {loader.rest_gain:.2f} times as fast as that"


def how_to_use(plan: Plan, path: str) -> str:
    """Return how to use a plan: a command for a script, or a line of Python for a dataset tuned within Python.

    `path` is the plan's file, or empty if there is none yet.
    """
    if plan.script:
        return command("run", plan, path)
    made = f"plumb.LoaderPlan.load({path!r})" if path else "plan"
    return f"{made}.loader(dataset)"


def command(name: str, plan: Plan, path: str) -> str:
    """Return a plumb command for a plan's script, quoted for a shell; `path` is the plan's file, empty for none.

    It names the plan if the command would not find it by itself.
    """
    target = Target(plan.script, plan.is_module)
    is_found = not path or Path(path) == Path(f"{target.stem}.plumb.json")
    words = ["plumb", name, *([] if is_found else ["--plan", path]), *(["-m"] if plan.is_module else []), plan.script]
    return shlex.join(words)


def cost(loader: LoaderResult, took: TuningCost, is_offered: bool) -> str:
    """Return a text on what the tuning took, and after how many steps or batches that is regained."""
    text = (
        f"Tuning {loader.name} took {format_seconds(took.seconds)}, {took.samples:,.0f} samples and "
        f"{format_seconds(took.cpu_seconds)} of CPU"
    )
    steps = loader.payback_steps if is_offered else None
    what = "training steps" if loader.end_to_end is not None else "batches"
    return f"{text}; {math.ceil(steps):,} {what} pay that back." if steps is not None else f"{text}."


def grouped(reasons: Iterable[str]) -> dict[str, list[str]]:
    """Group reasons for not offering something: map each explanation to what it explains, in order.

    >>> grouped(["Nothing is stored after a: it is random.", "Nothing is stored after b: it is random."])
    {'it is random': ['nothing is stored after a', 'after b']}
    """
    found: dict[str, list[str]] = {}
    for reason in reasons:
        what, _, why = reason.rstrip(".").partition(": ")
        what = what[:1].lower() + what[1:]
        same = found.setdefault(why or what, [])
        same += [what.removeprefix("nothing is stored ") if same else what] if why else []
    return found


def last_of_each(trials: Iterable[Trial]) -> list[Trial]:
    """Return the last trial of each configuration, the fastest first."""
    last = {trial.config: trial for trial in trials}
    return sorted(last.values(), key=lambda trial: -(trial.samples_per_second or 0.0))


def percent(share: float) -> str:
    """Return a share as text: whole percents, and "< 1%" instead of 0 for a small share."""
    return f"{'< 1%' if 0 < share < 0.005 else f'{share:.0%}'}".replace("%", "\N{NO-BREAK SPACE}%")


def whole(lengths: dict[str, float]) -> dict[str, int]:
    """Round the lengths so that their sum is the rounded sum."""
    ends = [round(end) for end in itertools.accumulate(lengths.values())]
    return {name: end - begin for name, begin, end in zip(lengths, [0, *ends], ends, strict=False)}
