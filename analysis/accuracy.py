"""The model against the truth: what it predicts for many configurations of many pipelines, and what they deliver.

    python -m analysis.accuracy [--quick] [--only PIPELINE...] [--fresh]

The model is calibrated as in any tuning; the configurations are then measured by turns. Each error is split in two: a
sample takes more CPU than predicted, or less, and more of the cores are in use, or fewer. Beside the model's errors
stands what one measurement is worth as a prediction of the next. What was measured of a pipeline is kept, so that a run
that was cut short goes on where it was; `--fresh` measures anew. Prints and writes `analysis/results/accuracy.md`.
"""

import math
from dataclasses import dataclass
from statistics import median

import numpy as np

from analysis import knobs, results
from analysis.measuring import by_turns, stream_of
from analysis.pipelines import NAMES, made
from analysis.pipelines.pipeline import Pipeline
from analysis.readings import add_fresh, keep, once
from analysis.results import Effort, publish, say, table
from analysis.tuned import tune_loader
from plumb.core.config import Config
from plumb.core.plan import Rate
from plumb.host.malloc import baseline_malloc

FULL, QUICK = Effort(4, 1.2, 30.0), Effort(2, 0.3, 4.0)
CONFIGURATIONS_AT_MOST = 14
WORST = 12
_SPREAD = ("median error", "95th percentile", "median with sign")


@dataclass(frozen=True)
class Comparison:
    """One configuration's prediction beside its measurement, samples per second over a real epoch.

    `cpu` is the CPU that a sample took, as a multiple of what was predicted. `halves` are samples per second while it
    runs, in the first half of the turns and in the second. `tried` is what the tuning itself had measured, over an
    epoch, where it did.
    """

    pipeline: str
    config: Config
    predicted: float
    simulated: float
    measured: Rate
    cpu: float
    halves: tuple[float, float]
    tried: float | None
    why: str

    @property
    def error(self) -> float:
        """Error of the bounds' prediction, as a share of what was measured; positive if it is too high."""
        return self.predicted / self.measured.samples_per_second - 1

    @property
    def cores(self) -> float:
        """Number of cores in use, as a multiple of what was predicted."""
        return self.cpu * self.measured.samples_per_second / self.predicted

    @property
    def explanation(self) -> str:
        """Which of both made most of the error."""
        if abs(math.log(self.cpu)) >= abs(math.log(self.cores)):
            return f"a sample took {self.cpu:.2f} times the CPU"
        return f"{self.cores:.2f} times the cores were in use: it waited {'less' if self.cores > 1 else 'more'}"

    @property
    def error_of_the_twin(self) -> float:
        """The same of the simulated twin of torch's loader."""
        return self.simulated / self.measured.samples_per_second - 1

    @property
    def error_of_a_half(self) -> float:
        """The same of the first half of the turns, if it had been to predict the second."""
        return self.halves[0] / self.halves[1] - 1

    @property
    def error_of_the_trial(self) -> float | None:
        """The same of what the tuning had measured."""
        return None if self.tried is None else self.tried / self.measured.samples_per_second - 1


def compare(pipeline: Pipeline, effort: Effort) -> list[Comparison]:
    """Predicts and measures the configurations of one pipeline."""
    tuned = tune_loader(pipeline.loader, effort.budget_seconds)
    configs = knobs.varied(pipeline, tuned.space, CONFIGURATIONS_AT_MOST)
    tuned.fill(configs)
    readings = by_turns(
        [tuned.contender(config) for config in configs],
        stream_of(pipeline.loader),
        pipeline.batch_size,
        effort.turns,
        effort.window_seconds,
        warm_up_seconds=effort.window_seconds / 2,
    )
    samples = len(pipeline.dataset)
    tried = {trial.config: trial.samples_per_second for trial in tuned.choice.trials if trial.samples_per_second}
    for reading in readings:
        if not reading.is_measured:
            say(f"{pipeline.name}: {reading.contender.name}: {reading.error}")
    return [
        Comparison(
            pipeline.name,
            reading.contender.config,
            tuned.predicted(reading.contender.config),
            tuned.simulated(reading.contender.config),
            reading.over_an_epoch(samples),
            median(reading.cpu_seconds) / tuned.predicted_cpu_seconds(reading.contender.config),
            _halves(reading.rates),
            tried.get(reading.contender.config),
            tuned.why(reading.contender.config),
        )
        for reading in readings
        if reading.is_measured
    ]


def _halves(rates: list[float]) -> tuple[float, float]:
    middle = len(rates) // 2
    return median(rates[:middle]), median(rates[middle:])


def _measured(name: str, effort: Effort) -> list[Comparison]:
    with baseline_malloc():
        return compare(made([name])[0], effort)


def summary(comparisons: list[Comparison]) -> list[str]:
    """Return the errors of each pipeline, and of all: those of the bounds, and of the simulated twin."""
    names = list(dict.fromkeys(comparison.pipeline for comparison in comparisons))
    rows = []
    for name in [*names, "all"]:
        its = [comparison for comparison in comparisons if name in (comparison.pipeline, "all")]
        errors = [[c.error for c in its], [c.error_of_the_twin for c in its]]
        cells = [cell for each in errors for cell in _spread(np.array(each))]
        rows.append([name, str(len(its)), *cells])
    head = ["pipeline", "configurations", f"bounds: {_SPREAD[0]}", *_SPREAD[1:], f"twin: {_SPREAD[0]}", *_SPREAD[1:]]
    return table(head, rows)


def repeated(comparisons: list[Comparison]) -> list[str]:
    """Return how well one measurement predicts the next, beside the model's bounds for the same."""
    trials = [(error, one.error) for one in comparisons if (error := one.error_of_the_trial) is not None]
    halves = [(one.error_of_a_half, one.error) for one in comparisons]
    predictions = {
        "the first half of the turns, of the second": halves,
        "the tuning's own reading, of all turns": trials,
    }
    rows = [
        [what, str(len(errors)), *(cell for column in np.array(errors).T for cell in _spread(column))]
        for what, errors in predictions.items()
        if errors
    ]
    return table(["prediction", "configurations", *_SPREAD, *(f"the bounds': {what}" for what in _SPREAD)], rows)


def _spread(errors: np.ndarray) -> list[str]:
    middle, high = np.percentile(np.abs(errors), [50, 95])
    return [f"{middle:.1%}", f"{high:.1%}", f"{np.median(errors):+.1%}"]


def details(comparisons: list[Comparison]) -> list[str]:
    """One row for each comparison."""
    rows = [
        [
            comparison.pipeline,
            str(comparison.config),
            f"{comparison.predicted:,.0f}",
            f"{comparison.simulated:,.0f}",
            f"{comparison.measured.samples_per_second:,.0f}",
            f"{comparison.measured.interval[0]:,.0f} to {comparison.measured.interval[1]:,.0f}",
            f"{comparison.error:+.1%}",
            f"{comparison.error_of_the_twin:+.1%}",
            comparison.explanation,
            comparison.why,
        ]
        for comparison in comparisons
    ]
    head = [
        "pipeline",
        "configuration",
        "bounds",
        "twin",
        "measured",
        "interval",
        "error",
        "twin's",
        "of what was predicted",
        "the model's bounds",
    ]
    return table(head, rows)


def main() -> None:
    """Print the results and write them."""
    parser = results.arguments(__doc__, FULL)
    results.add_pipelines(parser)
    add_fresh(parser)
    asked = parser.parse_args()
    effort = QUICK if asked.quick else FULL
    variant = "accuracy-quick" if asked.quick else "accuracy"
    if asked.apart:
        keep(variant, asked.apart, _measured(asked.apart, effort))
        return
    comparisons: list[Comparison] = []
    say(
        f"accuracy: {len(asked.only)} pipelines, at most {CONFIGURATIONS_AT_MOST} configurations of each, "
        f"{effort.turns} turns, {effort.budget_seconds:g} s of tuning"
    )
    for number, name in enumerate(asked.only, 1):
        say(f"accuracy: {name}, {number} of {len(asked.only)}")
        comparisons += (its := once(variant, name, list[Comparison], "analysis.accuracy", asked.fresh))
        say("\n".join(summary(its)))
    worst = sorted(comparisons, key=lambda comparison: -abs(comparison.error))[:WORST]
    lines = [
        f"{effort.turns} turns of windows of {effort.window_seconds:g} s; samples per second over a real epoch. "
        "Loaders whose workers last, or that have none, run for half a window before, as they would in a later epoch. "
        "A rate is the cores in use over the CPU that a sample takes, so an error is one of either. Where a sample "
        "takes more CPU than predicted, or less, memory was fresh where it was taken for used, or the other way round, "
        "a worker read values of a store for the first time, which it has to map, caches and memory were shared with "
        "other processes, or the host was another than while the model was calibrated. Where other cores were in use, "
        "processes waited for each other, or for the source.",
        "",
        *summary(comparisons),
        "",
        "## What a measurement is worth",
        "",
        "The same configurations, measured twice in one process: the halves of the turns lie about a minute apart. No "
        "model can be surer of a rate than one measurement of it is of the next.",
        "",
        *repeated(comparisons),
        "",
        "## The worst",
        "",
        *details(worst),
        "",
        "## All",
        "",
        *details(comparisons),
    ]
    publish("accuracy", "The model against the truth", lines, keep=not asked.quick and set(asked.only) >= set(NAMES))


if __name__ == "__main__":
    main()
