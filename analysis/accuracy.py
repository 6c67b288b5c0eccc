"""The model against the truth: what it predicts for many configurations of many pipelines, and what they deliver.

    python -m analysis.accuracy [--quick] [--only PIPELINE...]

The model is calibrated as in any tuning; the configurations are then measured by turns. Among them is the one that
calibrated it: by how much that comes out otherwise than it did then is no fault of the model's, but the host's drift,
and the errors are shown with that taken off, too. Prints and writes `analysis/results/accuracy.md`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis import knobs, results
from analysis.measuring import Reading, by_turns, stream_of
from analysis.pipelines import NAMES, made
from analysis.pipelines.pipeline import Pipeline
from analysis.results import Effort, publish, say, table
from analysis.tuned import Tuned, tune_loader
from plumb.plan import Config, Rate
from plumb.search.trials import TO_CALIBRATE

FULL, QUICK = Effort(3, 1.0, 20.0), Effort(1, 0.3, 4.0)
CONFIGURATIONS_AT_MOST = 14
WORST = 12


@dataclass(frozen=True)
class Comparison:
    """One configuration's prediction beside its measurement, samples per second over a real epoch."""

    pipeline: str
    config: Config
    predicted: float
    simulated: float
    measured: Rate
    why: str
    drift: float

    @property
    def error(self) -> float:
        """How much too high the bounds' prediction is, as a share of what was measured."""
        return self.predicted / self.measured.samples_per_second - 1

    @property
    def error_without_drift(self) -> float:
        """The same, if the host were still as fast as when the model was calibrated."""
        return self.predicted * self.drift / self.measured.samples_per_second - 1

    @property
    def error_of_the_twin(self) -> float:
        """The same of the simulated twin of torch's loader."""
        return self.simulated / self.measured.samples_per_second - 1


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
    )
    samples, drift = len(pipeline.dataset), drift_of(tuned, readings)
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
            tuned.why(reading.contender.config),
            drift,
        )
        for reading in readings
        if reading.is_measured
    ]


def drift_of(tuned: Tuned, readings: Sequence[Reading]) -> float:
    """How many times as fast the configuration that calibrated the model is now; 1 where none did."""
    situation = tuned.choice.situation
    then = next((trial for trial in tuned.choice.trials if trial.outcome == TO_CALIBRATE), None)
    now = next((r for r in readings if then and r.contender.config == then.config and r.is_measured), None)
    if then is None or now is None or not then.samples_per_second:
        return 1.0
    # A trial's rate is that of an epoch with the start of its workers, which differs more than what follows.
    starting = then.config.num_workers * situation.start_seconds_per_worker / (situation.epoch_samples or math.inf)
    return now.rate.samples_per_second * (1 / then.samples_per_second - starting)


def summary(comparisons: list[Comparison]) -> list[str]:
    """The errors of each pipeline, and of all: the bounds', with and without drift, and the simulated twin's."""
    names = list(dict.fromkeys(comparison.pipeline for comparison in comparisons))
    rows = []
    for name in [*names, "all"]:
        its = [comparison for comparison in comparisons if name in (comparison.pipeline, "all")]
        errors = [[c.error for c in its], [c.error_without_drift for c in its], [c.error_of_the_twin for c in its]]
        cells = [cell for each in errors for cell in _spread(np.array(each))]
        drift = f"{its[0].drift:.2f}" if name != "all" else ""
        rows.append([name, str(len(its)), drift, *cells])
    spread = ["median error", "95th percentile", "with sign"]
    kinds = ["bounds", "without drift", "twin"]
    heads = [f"{kind}: {spread[0]}" if not place else spread[place] for kind in kinds for place in range(3)]
    return table(["pipeline", "configurations", "drift", *heads], rows)


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
            f"{comparison.error_without_drift:+.1%}",
            f"{comparison.error_of_the_twin:+.1%}",
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
        "without drift",
        "twin's",
        "the model's bounds",
    ]
    return table(head, rows)


def main() -> None:
    """Prints and writes the results."""
    parser = results.arguments(__doc__, FULL)
    results.add_pipelines(parser)
    asked = parser.parse_args()
    effort = QUICK if asked.quick else FULL
    comparisons: list[Comparison] = []
    pipelines = made(asked.only)
    say(
        f"accuracy: {len(pipelines)} pipelines, at most {CONFIGURATIONS_AT_MOST} configurations of each, "
        f"{effort.turns} turns, {effort.budget_seconds:g} s of tuning"
    )
    for number, pipeline in enumerate(pipelines, 1):
        say(f"accuracy: {pipeline.name}, {number} of {len(pipelines)}")
        comparisons += compare(pipeline, effort)
    worst = sorted(comparisons, key=lambda comparison: -abs(comparison.error))[:WORST]
    lines = [
        f"{effort.turns} turns of windows of {effort.window_seconds:g} s; samples per second over a real epoch. Drift: "
        "how many times as fast the run that calibrated the model is when it is measured again.",
        "",
        *summary(comparisons),
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
