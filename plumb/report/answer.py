"""Answer of a tuning in one sentence: change this, leave it as it is, or it could not be told."""

from __future__ import annotations

from dataclasses import dataclass

from plumb.core.plan import LoaderResult, LoopGain, Plan, Rejection
from plumb.core.thresholds import CROWD_CPUS, NOTHING_TO_GAIN, WIDE
from plumb.report.wording import change, short, starts_count, times

# Smallest ratio that is printed as more than 1.
_VISIBLY_MORE = 1.005
_LOOP, _ALONE = "your loop", "the loader alone"


@dataclass(frozen=True)
class _Gain:
    """Ratio of rates that an answer is about: whose rates they are, and how sure the ratio is."""

    whose: str
    ratio: float
    interval: tuple[float, float] | None
    slower_chance: float | None = None

    def __str__(self) -> str:
        gained = f"{self.whose} {times(self.ratio)} times as fast"
        if self.interval is not None:
            return f"{gained} ({times(self.interval[0])} to {times(self.interval[1])})"
        if self.slower_chance is not None:
            risk = f"chance that it is slower: {self.slower_chance:.0%}"
            return f"{self.whose} probably {times(self.ratio)} times as fast ({risk})"
        return gained


def is_changed(loader: LoaderResult) -> bool:
    """Return whether the tuning chose another configuration than the script's."""
    return loader.tuned.config != loader.baseline.config


def is_offered(loader: LoaderResult) -> bool:
    """Return whether the plan changes the loader, and no measurement of it that is printed denies that it is faster."""
    if not is_changed(loader) or loader.unsafe:
        return False
    if loader.delivered is not None and loader.delivered.is_slower:
        return False
    return all(ratio >= _VISIBLY_MORE for ratio in _ratios(loader))


def _ratios(loader: LoaderResult) -> list[float]:
    """Return the ratios to the own rate that a report prints: in pairs or alone, claimed, and delivered."""
    found = [_gain(loader).ratio]
    if loader.claim is not None:
        found.append(loader.claim.gain)
    if loader.delivered is not None and loader.delivered.ratio is not None:
        found.append(loader.delivered.ratio)
    return found


def waiting_share(loader: LoaderResult) -> float | None:
    """Return the share of its time that the loop waits for data on the script's own configuration; None if unknown."""
    return loader.end_to_end.baseline_waiting_share if loader.end_to_end else None


def budget_option(plan: Plan) -> str:
    """Return how the user gives a tuning more time: on the command line, or in Python."""
    return "--budget " if plan.script else "budget="


def answer(loader: LoaderResult, budget_option: str = "--budget ") -> str:
    """Return the answer: a sentence without a full stop that begins with a small letter.

    `budget_option` is how the user gives a tuning more time.
    """
    if is_offered(loader):
        return f"{change(loader.baseline.config, loader.tuned.config)}: {_gain_by_the_clock(loader)}"
    if is_changed(loader):
        return f"leave it as it is: {_why_not_used(loader)}"
    if loader.undecided:
        open_one = next((each for each in loader.rejected if each.cause == "undecided"), None)
        return _could_not_tell(open_one, budget_option) if open_one else f"could not tell: {loader.undecided}"
    return f"leave it as it is: {_why_unchanged(loader)}"


def _gain(loader: LoaderResult) -> _Gain:
    """Return the gain of the chosen configuration while an epoch runs: the loop's if it was measured."""
    loop = loader.end_to_end
    if loop is not None:
        gain = loop.gain
        is_sure = gain is not None and gain.interval is not None and gain.interval[0] > 1
        chance = gain.slower_chance if gain is not None and not is_sure else None
        return _Gain(_LOOP, loop.ratio, gain.interval if gain and is_sure else None, chance)
    own, tuned = loader.baseline, loader.tuned
    low, high = tuned.interval[0] / own.interval[1], tuned.interval[1] / own.interval[0]
    return _Gain(_ALONE, loader.gain, (low, high) if low > 1 else None)


def _gain_by_the_clock(loader: LoaderResult) -> str:
    """Return the gain in words; over whole epochs where their beginnings and ends leave less of it."""
    gain = _gain(loader)
    if loader.claim is None or not starts_count(loader):
        return str(gain)
    whole = f"{gain.whose} {times(loader.claim.gain)} times as fast over whole epochs"
    return f"{whole} ({times(gain.ratio)} times while one runs)"


def _why_not_used(loader: LoaderResult) -> str:
    if loader.unsafe:
        return f"the plan is not used any more: {loader.unsafe.rstrip('.')}"
    delivered, what = loader.delivered, short(loader.tuned.config)
    if delivered is not None and delivered.ratio is not None and delivered.ratio < _VISIBLY_MORE:
        return f"by the clock of the latest run, {what} ran {times(delivered.ratio)} times as fast as yours"
    if delivered is not None and delivered.is_slower:
        return f"by the clock of the latest run, {what} ran slower than yours"
    if loader.claim is not None and loader.claim.gain < _VISIBLY_MORE:
        return f"whole epochs would be {times(loader.claim.gain)} times as fast with {what}"
    return f"{_gain(loader).whose} was {times(_gain(loader).ratio)} times as fast with {what}"


def _could_not_tell(open_one: Rejection, budget_option: str) -> str:
    """Return that a candidate may be better, its bounds, and the budget that would probably settle it."""
    host = " on this busy host" if open_one.others_cpus >= CROWD_CPUS else ""
    what, whose = short(open_one.config), _LOOP if open_one.in_loop else _ALONE
    more = f"; try {budget_option}{open_one.enough_seconds:.0f}" if open_one.enough_seconds is not None else ""
    if open_one.gain is None:
        return f"could not tell{host}: no time was left to try {what}{' in your loop' * open_one.in_loop}{more}"
    return f"could not tell{host}: {whose} is {_bounds(open_one.gain)} with {what}{more}"


def has_bounds(gain: LoopGain) -> bool:
    """Return whether the bounds of a ratio tell anything."""
    return gain.interval is not None and gain.interval[1] <= WIDE * gain.interval[0]


def _bounds(gain: LoopGain) -> str:
    """Return a ratio and its bounds in words, without bounds that tell nothing."""
    if not has_bounds(gain):
        return f"perhaps {times(gain.ratio)} times as fast"
    assert gain.interval is not None
    low, high = gain.interval
    if gain.ratio < 1:
        return f"likely {times(gain.ratio)}, at most {times(high)} times as fast"
    return f"at least {times(low)}, likely {times(gain.ratio)} times as fast"


def _why_unchanged(loader: LoaderResult) -> str:
    waits = waiting_share(loader)
    if waits is not None and waits <= NOTHING_TO_GAIN:
        return f"your loop waits for data {waits:.1%} of its time"
    waiting = f"your loop waits for data {waits:.0%} of its time, but " if waits is not None else ""
    return waiting + _why_nothing_better(loader)


def _why_nothing_better(loader: LoaderResult) -> str:
    """Return why nothing was chosen, by the candidate that came closest."""
    own = loader.baseline
    if loader.rejected:
        return _why_rejected(max(loader.rejected, key=lambda each: each.gain.ratio if each.gain else 0.0))
    others = [trial.samples_per_second for trial in loader.trials if trial.config != own.config]
    measured = [rate for rate in others if rate is not None]
    if not measured:
        return "no other configuration was measured"
    if max(measured) > own.samples_per_second:
        return "nothing that was tried is surely faster; the table of what was tried says why"
    return "everything else that was tried is slower"


def _why_rejected(closest: Rejection) -> str:
    what = short(closest.config)
    match closest.cause:
        case "failed":
            return f"the best of what was tried, {what}, failed in it ({closest.detail})"
        case "epochs":
            return f"starting and ending epochs takes all the time that {what} saves"
        case "not kept up":
            return f"the best of what was tried, {what}, could not be kept up for a few epochs ({closest.detail})"
        case "changing dataset":
            return f"samples can't be loaded ahead: your loop changes the dataset in mid-epoch ({closest.detail})"
    if closest.gain is None:
        return f"no time was left to compare it with the best of what was tried, {what}"
    ratio = closest.gain.ratio
    whose = "it ran" if closest.in_loop else f"{_ALONE} ran"
    return f"{whose} {'only ' * (ratio >= 1)}{times(ratio)} times as fast with the best of what was tried, {what}"
