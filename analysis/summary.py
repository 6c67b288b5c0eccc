"""The comparison in words and tables: one table for all pipelines, one for each, and the aims, met or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median

from analysis.measuring import share
from analysis.outcome import PLUMB, PLUMB_IN_ORDER, PLUMB_UNCACHED, Entry, Outcome
from analysis.reasons import known_of, reason
from analysis.results import table
from plumb.core.plan import Rate
from plumb.core.units import format_bytes

# Differences below this are noise, unless the interval says otherwise.
_OF_ORACLE, _OVER_EACH_PEER, _MISCONFIGURED, _OBJECTS, _CACHED, _OF_GRID_SECONDS = 0.97, 1.5, 47.0, 12.0, 1.5, 0.1
_OBJECT_STORE = "s3"
DEFAULT, NO_PEERS = "torch's default", (PLUMB, PLUMB_UNCACHED, PLUMB_IN_ORDER, "a full grid's best")


@dataclass(frozen=True)
class Aim:
    """Claim, measurement, and whether that is enough; None if it could not be measured."""

    claim: str
    measured: str
    is_met: bool | None


def lines_of(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the whole summary, except its head."""
    losses = [line for outcome in outcomes for line in losses_of(outcome)]
    wrong = [line for outcome in outcomes for line in differences_of(outcome)]
    return [
        "Rates are samples per second in steady state, medians over turns in which every loader was measured once; the "
        "brackets are 95 % bootstrap intervals over the turns. The physical limit is cores over the CPU seconds that a "
        "sample takes in one process that does nothing else, or what the source gives; a share above 1 means that "
        "something is stored instead of made. The grid is all that plumb may choose; a part of it is measured, and the "
        "seconds of the whole are told from those of the part.",
        "",
        "## The aims",
        "",
        *table(["aim", "measured", ""], [[aim.claim, aim.measured, _word(aim.is_met)] for aim in aims(outcomes)]),
        "",
        'What falls short of them, one by one; shares of the best of all are under "Where plumb loses".',
        "",
        *shortfalls(outcomes),
        "",
        "## All pipelines",
        "",
        *table(
            ["pipeline", "bounded by", DEFAULT, "plumb", "over it", "of the best of all", "of the limit"],
            [_overview(outcome) for outcome in outcomes],
        ),
        "",
        "## plumb against each peer",
        "",
        *table(["peer", "pipelines", "plumb is faster by (geometric mean)", "least", "most"], peers(outcomes)),
        "",
        "## A misconfigured start against tuned",
        "",
        *table(["pipeline", "worst start", "samples/s", "plumb", "factor"], misconfigured(outcomes)),
        "",
        "## End to end, with a training loop",
        "",
        "Whole epochs by the clock, with what plumb chooses for this loop; its step waits for half of the time that "
        "torch's best takes for a batch.",
        "",
        *table(
            ["pipeline", "torch's best", "epoch, s", "plumb's choice", "first epoch, s", "later epochs, s", "factor"],
            epochs(outcomes),
        ),
        "",
        "## Where plumb loses",
        "",
        *(losses or ["Nowhere, beyond the intervals."]),
        "",
        "## Whether all did the same work",
        "",
        *(wrong or ["The batches of all that were measured hold the same."]),
        *(line for outcome in outcomes for line in section(outcome)),
    ]


def aims(outcomes: Sequence[Outcome]) -> list[Aim]:
    """Return what the comparison is to show, one by one."""
    shares = {o.name: share for o in outcomes if (share := _plumb_over(o, o.oracle))}
    least = min(shares.items(), key=lambda item: item[1].samples_per_second, default=None)
    means = [(geometric_mean(values), peer) for peer, values in factors(outcomes).items()]
    nearest = min(means, default=None)
    starts = [(factor, o.title) for o in outcomes if (factor := _misconfigured_factor(o))]
    objects = next((f for o in outcomes if o.name == _OBJECT_STORE and (f := _plumb_over(o, o.entry(DEFAULT)))), None)
    clocked = [(median(_gains(o)), o.title) for o in outcomes if o.epochs]
    seconds = [
        (plumb.tuning_seconds / o.grid_seconds, o.title)
        for o in outcomes
        if (plumb := o.entry(PLUMB)) and o.grid_seconds
    ]
    worst_start, best_clocked, slowest = (
        max(starts, default=None),
        max(clocked, default=None),
        max(seconds, default=None),
    )
    return [
        Aim(
            f"at least {_OF_ORACLE} of the best of all, everywhere",
            f"least: {_rate(least[1], 3)} ({least[0]})" if least else "",
            least[1].samples_per_second >= _OF_ORACLE if least else None,
        ),
        _aim(f"{_OVER_EACH_PEER} times each peer's geometric mean", nearest, _OVER_EACH_PEER),
        _aim(f"{_MISCONFIGURED:g} times the worst misconfigured start", worst_start, _MISCONFIGURED),
        _aim(
            f"{_OBJECTS:g} times torch's default on object storage",
            (objects.samples_per_second, "objects in S3") if objects else None,
            _OBJECTS,
        ),
        _aim(f"{_CACHED} times end to end through caching", best_clocked, _CACHED),
        Aim(
            "tuning in a tenth of the grid's time",
            f"most: {slowest[0]:.2f} ({slowest[1]})" if slowest else "",
            slowest[0] <= _OF_GRID_SECONDS if slowest else None,
        ),
    ]


def shortfalls(outcomes: Sequence[Outcome]) -> list[str]:
    """Why a peer is less than half as slow again, and why tuning takes more than a tenth of a grid's time."""
    lines = []
    for peer, values in factors(outcomes).items():
        if (mean := geometric_mean(values)) < _OVER_EACH_PEER:
            lines.append(f"- {peer}, {mean:.2f} on {len(values)} of {len(outcomes)} pipelines: {known_of(peer)}.")
    for outcome in outcomes:
        plumb = outcome.entry(PLUMB)
        if plumb and outcome.grid_seconds and plumb.tuning_seconds > _OF_GRID_SECONDS * outcome.grid_seconds:
            lines.append(
                f"- {outcome.title}: plumb took {plumb.tuning_seconds:.0f} s, to look at every configuration once "
                f"takes {outcome.grid_seconds:.0f} s. A trial takes as long however few there are."
            )
    return lines or ["- Nothing."]


def _aim(claim: str, found: tuple[float, str] | None, wanted: float) -> Aim:
    if found is None:
        return Aim(claim, "", None)
    return Aim(claim, f"{found[0]:.2f} ({found[1]})", found[0] >= wanted)


def _word(is_met: bool | None) -> str:
    return "not measured" if is_met is None else "met" if is_met else "**not met**"


def factors(outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
    """Return by how much plumb is faster than each peer, on each pipeline on which both were measured."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        for entry in outcome.entries:
            times = _plumb_over(outcome, entry) if entry.is_measured and entry.peer not in NO_PEERS else None
            if times:
                found.setdefault(entry.peer, []).append(times.samples_per_second)
    return found


def peers(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """One line for each peer."""
    return [
        [peer, str(len(values)), f"{geometric_mean(values):.2f}", f"{min(values):.2f}", f"{max(values):.2f}"]
        for peer, values in factors(outcomes).items()
    ]


def misconfigured(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Return the slowest of what an ordinary script starts with: torch's default, or a rule of thumb."""
    lines = []
    for outcome in outcomes:
        plumb, start, factor = outcome.entry(PLUMB), _worst_start(outcome), _misconfigured_factor(outcome)
        if plumb and start and factor:
            lines.append([outcome.title, start.configuration, _number(start), _number(plumb), f"{factor:.1f}"])
    return lines


def _misconfigured_factor(outcome: Outcome) -> float | None:
    times = _plumb_over(outcome, _worst_start(outcome))
    return times.samples_per_second if times else None


def _worst_start(outcome: Outcome) -> Entry | None:
    starts = (DEFAULT, "torch's suggested workers", "workers = cores", "4 workers per GPU")
    entries = [entry for entry in outcome.entries if entry.peer in starts and entry.is_measured]
    return min(entries, key=lambda entry: entry.rate.samples_per_second, default=None)


def epochs(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Each pipeline's epochs, where they were clocked."""
    return [
        [
            outcome.title,
            clocked.torchs,
            f"{median(clocked.torchs_seconds):.2f}",
            clocked.plumbs,
            f"{clocked.first_seconds:.2f}",
            f"{median(clocked.plumbs_seconds):.2f}",
            f"{median(_gains(outcome)):.2f}",
        ]
        for outcome in outcomes
        if (clocked := outcome.epochs)
    ]


def _gains(outcome: Outcome) -> list[float]:
    assert outcome.epochs is not None
    pairs = zip(outcome.epochs.torchs_seconds, outcome.epochs.plumbs_seconds, strict=True)
    return [theirs / ours for theirs, ours in pairs]


def losses_of(outcome: Outcome) -> list[str]:
    """Each peer that is faster than plumb beyond the interval, and why."""
    lines = []
    for entry in outcome.entries:
        times = _plumb_over(outcome, entry) if entry.is_measured and entry.peer != PLUMB else None
        if times and times.interval[1] < 1:
            lines.append(
                f"- {outcome.title}: {entry.peer} ({entry.configuration}) makes {_number(entry)} samples/s; "
                f"plumb reaches {_rate(times, 3)} of it. Why: {reason(outcome, entry)}."
            )
    return lines


def differences_of(outcome: Outcome) -> list[str]:
    """Each loader whose batches were others than torch's."""
    told = [entry for entry in outcome.entries if entry.difference]
    return [f"- {outcome.title}: {entry.peer}: {entry.difference}." for entry in told]


def section(outcome: Outcome) -> list[str]:
    """Everybody on one pipeline."""
    limit = median(outcome.limits) if outcome.limits else 0.0
    measured = sorted((e for e in outcome.entries if e.is_measured), key=lambda e: -e.rate.samples_per_second)
    head = ["peer", "configuration", "samples/s", "of the best", "of the limit", "tuning, s", "memory", "processes"]
    missing = [entry for entry in outcome.entries if not entry.is_measured]
    notes = [f"- {e.peer}: {e.note}." for e in measured if e.note]
    return [
        "",
        f"## {outcome.title[:1].upper()}{outcome.title[1:]}",
        "",
        f"Bounded by {outcome.bounded_by}; the limit is {limit:,.0f} samples/s. Measured on: {outcome.machine}.",
        "",
        *table(head, [_line(outcome, entry, limit) for entry in measured]),
        *(["", "Not measured:", ""] if missing else []),
        *(f"- {entry.peer}: {entry.error}." for entry in missing),
        *(["", *notes] if notes else []),
    ]


def _line(outcome: Outcome, entry: Entry, limit: float) -> list[str]:
    oracle, versions = outcome.oracle, " ".join(filter(None, entry.versions.values()))
    return [
        f"{entry.peer} {versions}".strip(),
        entry.configuration or "as it is by default",
        _rate(entry.rate, 0),
        _rate(share(entry, oracle), 2) if oracle else "",
        f"{entry.rate.samples_per_second / limit:.2f}" if limit else "",
        f"{entry.tuning_seconds:,.0f}",
        format_bytes(entry.memory_bytes),
        str(entry.processes),
    ]


def _overview(outcome: Outcome) -> list[str]:
    plumb, default, oracle = outcome.entry(PLUMB), outcome.entry(DEFAULT), outcome.oracle
    over_default, of_oracle = _plumb_over(outcome, default), _plumb_over(outcome, oracle)
    limit = median(outcome.limits) if outcome.limits else 0.0
    return [
        outcome.title,
        outcome.bounded_by,
        _number(default) if default else "",
        _number(plumb) if plumb else "not measured",
        _rate(over_default, 2) if over_default else "",
        _rate(of_oracle, 3) if of_oracle else "",
        f"{plumb.rate.samples_per_second / limit:.2f}" if plumb and limit else "",
    ]


def _plumb_over(outcome: Outcome, entry: Entry | None) -> Rate | None:
    plumb = outcome.entry(PLUMB)
    return share(plumb, entry) if plumb and entry else None


def _number(entry: Entry) -> str:
    return f"{entry.rate.samples_per_second:,.0f}"


def _rate(rate: Rate, digits: int) -> str:
    low, high = rate.interval
    return f"{rate.samples_per_second:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"
