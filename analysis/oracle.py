"""plumb's choice against the best of a full grid, and what each half of its search is worth.

    python -m analysis.oracle [--quick] [--only PIPELINE...] [--cpus N] [--burn] [--fresh]

The grid is measured by turns, thinned out where it is large; then its best few, plumb's choice, the model's favourite
and Optuna's own are measured once more, side by side. A configuration with a store is measured as later epochs find it,
and then its first epoch, three times, which fills the store: what plumb chooses is to be best over ten epochs. `--cpus`
keeps everything to so many CPUs, `--burn` has another process keep one busy. What was measured of a pipeline is kept,
so that a run that was cut short goes on where it was; `--fresh` measures anew. Prints and writes
`analysis/results/oracle.md`, or `oracle-1-cpus.md` and `oracle-burn.md`.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

import optuna

from analysis import knobs, results
from analysis.caching import seconds_of_an_epoch
from analysis.contention import keep_to_cpus, one_core_burnt
from analysis.measuring import Contender, Reading, best, by_turns, share, share_by_turns, stream_of
from analysis.pipelines import NAMES, made
from analysis.pipelines.pipeline import Pipeline
from analysis.readings import add_fresh, keep, once
from analysis.results import Effort, publish, say, table
from analysis.tuned import Tuned, tune_loader
from plumb.core.config import Config
from plumb.core.plan import Rate
from plumb.host.malloc import baseline_malloc
from plumb.model import planner
from plumb.model.resource_bounds import EPOCHS

FULL, QUICK = Effort(2, 0.6, 30.0), Effort(1, 0.2, 4.0)
FINAL_TURNS, FINAL_SECONDS, FINALISTS = 5, 0.8, 3
FIRST_EPOCHS = 3
# What plumb's choice should reach, and the share of the grid's time that it may take.
AIM, TIME_AIM = 0.97, 0.1
# Optuna may propose what it knows already; after so many in a row, it has nothing else to say.
REPEATS_AT_MOST = 50
# A grid with more configurations than this is thinned out, all of torch's own kept.
GRID_AT_MOST, QUICK_GRID_AT_MOST = 48, 16
WAYS = ("both", "the model only", "Optuna only")


@dataclass(frozen=True)
class Contest:
    """One pipeline's grid and finals: what each way chose, as it was measured there, and how long it took to choose.

    The best of the finals is taken for the grid's best: all that is in them was in the grid, or is better. Of a grid of
    `grid_size` configurations, `measured` took `measured_seconds`. `first_rates` are the samples per second of the
    first epoch of those in the finals that fill a store in it.
    """

    pipeline: Pipeline
    chosen: dict[str, Reading]
    grid_size: int
    measured: int
    measured_seconds: float
    finals: list[Reading]
    first_rates: dict[Config, float]
    seconds: dict[str, float]

    def over_epochs(self, reading: Reading) -> list[float]:
        """Return samples per second of ten epochs, the first one among them, by the turns that measured later ones."""
        first = self.first_rates.get(reading.contender.config)
        return [EPOCHS / (1 / first + (EPOCHS - 1) / later) if first else later for later in reading.rates]

    @property
    def grid_seconds(self) -> float:
        """Seconds that the whole grid would take, at the mean of the part that was measured."""
        return self.measured_seconds * self.grid_size / self.measured


def hold(pipeline: Pipeline, effort: Effort, grid_at_most: int, final_turns: int) -> Contest:
    """Measures the grid, lets each way choose, and measures the choices beside the grid's best few."""
    tuned = tune_loader(pipeline.loader, effort.budget_seconds)
    every = knobs.grid(pipeline, tuned.space)
    configs = knobs.thinned(every, grid_at_most)
    tuned.fill(configs)
    say(f"oracle: {len(configs)} of {len(every)} configurations; plumb took {tuned.seconds:.0f} s")
    readings, grid_seconds = _timed(pipeline, [tuned.contender(config) for config in configs], effort)
    leaders = sorted((r for r in readings if r.is_measured), key=lambda r: -r.rate.samples_per_second)[:FINALISTS]
    choices = {
        "both": tuned.config,
        "the model only": planner.rank(tuned.choice.search_space, tuned.choice.inputs).best[0].config,
        "Optuna only": by_optuna(pipeline, tuned, tuned.seconds, effort.window_seconds),
    }
    finalists = dict.fromkeys(_running([*choices.values(), *(r.contender.config for r in leaders)]))
    finals = by_turns(
        [tuned.contender(config) for config in finalists],
        stream_of(pipeline.loader),
        pipeline.batch_size,
        final_turns,
        FINAL_SECONDS,
    )
    measured = {reading.contender.config: reading for reading in finals}
    return Contest(
        pipeline,
        {way: measured[config] for way, config in zip(WAYS, _running(list(choices.values())), strict=True)},
        len(every),
        len(configs),
        grid_seconds,
        finals,
        _first_rates(pipeline, tuned, [config for config in finalists if config.cache]),
        {"both": tuned.seconds, "the model only": tuned.model_seconds, "Optuna only": tuned.seconds},
    )


def by_optuna(
    pipeline: Pipeline,
    tuned: Tuned,
    seconds: float,
    window_seconds: float,
    sampler: optuna.samplers.BaseSampler | None = None,
) -> Config:
    """Return what a sampler without the model, TPE by default, finds in the same space in the same time."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = sampler or optuna.samplers.TPESampler(seed=0, multivariate=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = tuned.space
    rates: dict[Config, float] = {}
    until = time.perf_counter() + seconds
    repeats = 0
    while time.perf_counter() < until and repeats < REPEATS_AT_MOST:
        trial = study.ask(space.distributions())
        config = space.config(trial.params)
        repeats = repeats + 1 if config in rates else 0
        if config not in rates and knobs.fits(space, config):
            readings = by_turns(
                [tuned.contender(config)],
                stream_of(pipeline.loader),
                pipeline.batch_size,
                1,
                window_seconds,
                patience_seconds=max(until - time.perf_counter(), window_seconds),
            )
            rates[config] = readings[0].rate.samples_per_second if readings[0].is_measured else 0.0
        study.tell(trial, rates.get(config, 0.0))
    return max(rates, key=lambda config: rates[config])


def _timed(pipeline: Pipeline, contenders: list[Contender], effort: Effort) -> tuple[list[Reading], float]:
    begun = time.perf_counter()
    stream = stream_of(pipeline.loader)
    readings = by_turns(contenders, stream, pipeline.batch_size, effort.turns, effort.window_seconds)
    return readings, time.perf_counter() - begun


def _first_rates(pipeline: Pipeline, tuned: Tuned, configs: Iterable[Config]) -> dict[Config, float]:
    """Return the rate of an epoch that finds nothing stored, from the start of its workers to its last batch.

    It is the median of some turns: a single short epoch says little on a host that is not quiet.
    """
    seconds: dict[Config, list[float]] = {config: [] for config in configs}
    for _ in range(FIRST_EPOCHS):
        for config, its in seconds.items():
            loader = tuned.with_nothing_stored().make(config, None)
            its.append(seconds_of_an_epoch(loader, reuse=config.allocator_reuse))
    return {config: len(pipeline.dataset) / median(its) for config, its in seconds.items()}


def _running(configs: list[Config]) -> list[Config]:
    """Return the configurations as they are while they run: the finals compare no restarts of workers."""
    return [dataclasses.replace(config, persistent_workers=config.num_workers > 0) for config in configs]


@dataclass(frozen=True)
class Chosen:
    """Choice of one way, its share of the grid's best in later epochs, and of the best over ten; or why it has none.

    `of_grid` is the share of the grid's time that it took to choose.
    """

    way: str
    config: str
    samples_per_second: float | None
    later: Rate | None
    over_epochs: Rate | None
    seconds: float
    of_grid: float
    error: str = ""


@dataclass(frozen=True)
class Told:
    """A contest without its loaders: its grid and the best of it, and each way's choice."""

    pipeline: str
    bounded_by: str
    measured: int
    grid_size: int
    measured_seconds: float
    grid_seconds: float
    best: str
    best_samples_per_second: float
    chosen: dict[str, Chosen]

    @property
    def of_how_many(self) -> str:
        """Return how much of the grid was measured."""
        return f"{self.measured:,} of {self.grid_size:,}"


def told(contest: Contest) -> Told:
    """Return the grid's best, and the choices beside it."""
    winner = best(contest.finals)
    return Told(
        contest.pipeline.name,
        contest.pipeline.bounded_by,
        contest.measured,
        contest.grid_size,
        contest.measured_seconds,
        contest.grid_seconds,
        str(winner.contender.config),
        winner.rate.samples_per_second,
        {way: _chosen(contest, way, winner) for way in WAYS},
    )


def _chosen(contest: Contest, way: str, winner: Reading) -> Chosen:
    reading, seconds = contest.chosen[way], contest.seconds[way]
    config, of_grid = str(reading.contender.config), seconds / contest.grid_seconds
    if not reading.is_measured:
        return Chosen(way, config, None, None, None, seconds, of_grid, reading.error)
    trainings = [contest.over_epochs(final) for final in contest.finals if final.is_measured]
    over_epochs = share_by_turns(contest.over_epochs(reading), max(trainings, key=median))
    return Chosen(way, config, reading.rate.samples_per_second, share(reading, winner), over_epochs, seconds, of_grid)


def _told_of(name: str, effort: Effort, grid_at_most: int, final_turns: int) -> Told:
    with baseline_malloc():
        return told(hold(made([name])[0], effort, grid_at_most, final_turns))


def report(contests: list[Told]) -> list[str]:
    """Return the grids' best, the choices beside them, and what they miss of the aims."""
    grids = ["pipeline", "bounded by", "configurations", "seconds", "the whole grid's", "the grid's best", "samples/s"]
    choices = [
        "pipeline",
        "choice by",
        "configuration",
        "samples/s",
        "share of the grid's best",
        f"of its best over {EPOCHS} epochs",
        "seconds",
        "of the grid's",
    ]
    return [
        *table(grids, [_grid_row(contest) for contest in contests]),
        "",
        "## What each way of choosing reaches",
        "",
        *table(choices, [row for contest in contests for row in rows(contest)]),
        "",
        f"## Where plumb reaches less than {AIM} of the best, or takes more than {TIME_AIM} of the grid's time",
        "",
        *(line for contest in contests for line in _misses(contest)),
    ]


def _grid_row(contest: Told) -> list[str]:
    return [
        contest.pipeline,
        contest.bounded_by,
        contest.of_how_many,
        f"{contest.measured_seconds:.0f}",
        f"{contest.grid_seconds:,.0f}",
        contest.best,
        f"{contest.best_samples_per_second:,.0f}",
    ]


def rows(contest: Told) -> list[list[str]]:
    """One line for each way's choice."""
    return [
        [
            contest.pipeline,
            chosen.way,
            chosen.config,
            chosen.error if chosen.samples_per_second is None else f"{chosen.samples_per_second:,.0f}",
            _with_interval(chosen.later),
            _with_interval(chosen.over_epochs),
            f"{chosen.seconds:.1f}",
            f"{chosen.of_grid:.3f}",
        ]
        for chosen in contest.chosen.values()
    ]


def _with_interval(reached: Rate | None) -> str:
    if reached is None:
        return ""
    low, high = reached.interval
    return f"{reached.samples_per_second:.3f} [{low:.3f}, {high:.3f}]"


def _misses(contest: Told) -> Iterator[str]:
    """Yield what plumb's own way misses of the aims, and what was measured of the reason."""
    plumb = contest.chosen[WAYS[0]]
    shares = [(plumb.later, "the grid's best", f"{plumb.core.config}, and the grid's best is {contest.best}")]
    if plumb.over_epochs != plumb.later:
        first_too = "the first epoch, which fills a store, counts here"
        shares.append((plumb.over_epochs, f"the best over {EPOCHS} epochs", first_too))
    for reached, share_of, remark in shares:
        if reached is not None and reached.samples_per_second < AIM:
            is_noise = reached.interval[1] >= AIM
            told = f"that it is less than {AIM} is within noise" if is_noise else "its turns all lie below"
            yield f"- {contest.pipeline}: {_with_interval(reached)} of {share_of}; {told}; {remark}."
    if plumb.error:
        yield f"- {contest.pipeline}: {plumb.core.config} was not measured: {plumb.error}."
    if plumb.of_grid > TIME_AIM:
        yield (
            f"- {contest.pipeline}: plumb took {plumb.seconds:.1f} s, {plumb.of_grid:.3f} of what the grid takes, in "
            f"which {contest.of_how_many} configurations were measured, {contest.grid_seconds:,.0f} s in all."
        )


def main() -> None:
    """Print the results and write them."""
    parser = results.arguments(__doc__, FULL)
    results.add_pipelines(parser)
    parser.add_argument("--cpus", type=int, help="keep to so many CPUs")
    parser.add_argument("--burn", action="store_true", help="have another process keep one CPU busy")
    add_fresh(parser)
    asked = parser.parse_args()
    if asked.cpus:
        keep_to_cpus(asked.cpus, "analysis.oracle")
    effort, at_most, final_turns = FULL, GRID_AT_MOST, FINAL_TURNS
    if asked.quick:
        effort, at_most, final_turns = QUICK, QUICK_GRID_AT_MOST, 2
    situation = (f"-{asked.cpus}-cpus" if asked.cpus else "") + ("-burn" if asked.burn else "")
    variant = f"oracle{situation}" + ("-quick" if asked.quick else "")
    if asked.apart:
        keep(variant, asked.apart, _told_of(asked.apart, effort, at_most, final_turns))
        return
    contests = []
    with one_core_burnt() if asked.burn else contextlib.nullcontext():
        say(f"oracle: {len(asked.only)} pipelines, {effort.turns} turns of a grid, {final_turns} turns of finals each")
        for number, name in enumerate(asked.only, 1):
            say(f"oracle: {name}, {number} of {len(asked.only)}")
            contests.append(once(variant, name, Told, "analysis.oracle", asked.fresh))
            say("\n".join(map(" | ".join, rows(contests[-1]))))
    meanwhile = " Another process kept one CPU busy." if asked.burn else ""
    lines = [
        f"The grid: {effort.turns} turns of windows of {effort.window_seconds:g} s; the finals: {final_turns} turns of "
        f"{FINAL_SECONDS:g} s, the best {FINALISTS} of the grid among them.{meanwhile} The whole grid's seconds are "
        "told from those of its part.",
        "",
        *report(contests),
    ]
    publish(
        f"oracle{situation}",
        "plumb's choice against a full grid",
        lines,
        keep=not asked.quick and (bool(situation) or set(asked.only) >= set(NAMES)),
    )


if __name__ == "__main__":
    main()
