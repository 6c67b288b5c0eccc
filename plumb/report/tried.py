"""What a tuning tried, row by row: each configuration's rate, and why it was not chosen if it looks faster."""

from __future__ import annotations

from dataclasses import dataclass

from plumb.core.plan import LoaderResult, Rejection, Trial
from plumb.core.thresholds import EQUAL, NOISE
from plumb.core.units import format_rate
from plumb.report.answer import has_bounds, is_offered
from plumb.report.wording import last_of_each, times, told_apart

# What a plan says of how a trial was measured, for users.
_IN_TURNS = ("side by side", "in pairs")
_HOW = {
    "measured": "one run",
    "measured, to calibrate": "one run",
    **dict.fromkeys(_IN_TURNS, "in turns"),
    "stopped early: slower": "one run, ended early: slower than the best so far",
}
_STOPPED = "stopped early"


@dataclass(frozen=True)
class TriedRow:
    """A configuration that was tried: in words, its last trial, whose it is, and how it was measured or refused."""

    words: str
    trial: Trial
    is_own: bool
    is_chosen: bool
    remark: str


def tried(loader: LoaderResult, most: int | None = None) -> list[TriedRow]:
    """Return the last trial of each configuration, the fastest first.

    With `most`, only so many, and the script's own and the chosen configuration.
    """
    own, chosen = loader.baseline.config, loader.tuned.config
    trials = [
        trial
        for place, trial in enumerate(last_of_each(loader.trials))
        if most is None or place < most or trial.config in (own, chosen)
    ]
    words = told_apart([trial.config for trial in trials])
    return [
        TriedRow(text, trial, trial.config == own, trial.config == chosen, _remark(loader, trial))
        for text, trial in zip(words, trials, strict=True)
    ]


def _remark(loader: LoaderResult, trial: Trial) -> str:
    own, chosen = loader.baseline.config, loader.tuned.config
    how = _HOW.get(trial.outcome, trial.outcome)
    if trial.config == chosen:
        whose = "yours" if chosen == own else "chosen"
        is_slower = chosen != own and _rate(trial) < loader.baseline.samples_per_second
        return f"{whose}: {'faster in your loop' if is_slower and loader.end_to_end is not None else how}"
    if trial.config == own and _rate(trial) > _chosen_rate(loader):
        return f"yours: {_why_not_own(loader)}"
    if _rate(trial) > _chosen_rate(loader):
        return f"not chosen: {_why_not(loader, trial)}"
    return f"yours: {how}" if trial.config == own else how


def _why_not(loader: LoaderResult, trial: Trial) -> str:
    """Return why a configuration was not chosen whose loader alone was faster than the chosen one."""
    chosen, own = loader.tuned.config, loader.baseline.config
    rejections = [each for each in loader.rejected if each.config == trial.config]
    if rejections:
        return _by_comparison(rejections[-1])
    chosen_trial = next((each for each in reversed(loader.trials) if each.config == chosen), None)
    if chosen_trial is not None and trial.loop_samples_per_second and chosen_trial.loop_samples_per_second:
        there, here = trial.loop_samples_per_second, chosen_trial.loop_samples_per_second
        if there <= here * (1 + EQUAL):
            step = loader.step_samples_per_second
            if step is not None and there >= step * (1 - EQUAL):
                return f"faster alone, but your step takes no more than {format_rate(step)}"
            return f"faster alone, not over a training: {format_rate(there)}, by the model"
    low, high = (chosen_trial or loader.tuned).interval or loader.tuned.interval
    if trial.interval is not None and trial.interval[0] <= high and low <= trial.interval[1]:
        return f"not told apart from {'yours' if chosen == own else 'the chosen one'}"
    if trial.outcome.startswith(_STOPPED):
        return "faster alone, but clearly slower than the best so far, so ended early"
    if loader.rejected:
        return "faster alone; only the best of all is tried in your loop, and was not chosen"
    if trial.outcome in _IN_TURNS:
        return "faster alone; not tried in your loop" if loader.end_to_end is not None else "faster, but not surely"
    if _rate(trial) <= _chosen_rate(loader) * (1 + NOISE):
        return "faster by less than single runs vary, 10%"
    return "faster alone, in one run; not compared in turns"


def _why_not_own(loader: LoaderResult) -> str:
    """Return what speaks against the script's own configuration although its loader alone is faster."""
    if not is_offered(loader):
        return "leave it as it is"
    if loader.end_to_end is not None:
        return "faster alone, slower in your loop"
    return "slower in the measurement that decided"


def _by_comparison(rejection: Rejection) -> str:
    where = "in your loop" if rejection.in_loop else "in turns with yours"
    match rejection.cause:
        case "failed":
            return f"failed {where}"
        case "epochs":
            return "slower by the clock, with starts and ends of epochs"
        case "not kept up":
            return "could not be kept up for whole epochs"
        case "changing dataset":
            return "your loop changes the dataset in mid-epoch"
    if rejection.gain is None:
        return f"no time was left to try it {where}"
    told = f"{times(rejection.gain.ratio)} times as fast {where}"
    if rejection.cause == "not faster":
        return f"faster alone, but {told}"
    bounds = " ({} to {})".format(*map(times, rejection.gain.interval or ())) if has_bounds(rejection.gain) else ""
    return f"perhaps {told}{bounds}, too unsure"


def _rate(trial: Trial) -> float:
    return trial.samples_per_second or 0.0


def _chosen_rate(loader: LoaderResult) -> float:
    """Return the rate that the chosen configuration's row shows, or its result without one."""
    rows = [trial for trial in loader.trials if trial.config == loader.tuned.config]
    return (rows[-1].samples_per_second if rows else None) or loader.tuned.samples_per_second
