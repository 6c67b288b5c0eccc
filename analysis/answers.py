"""What plumb answers for a loader in a given time, held against torch's own configurations."""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

import plumb
from analysis.measuring import Contender, Reading, by_turns, stream_of, torch_contender
from analysis.pipelines.pipeline import Pipeline
from analysis.results import Effort
from analysis.tuned import STUCK_SECONDS, filled_store
from plumb.core.config import Config
from plumb.runtime.loader import rebuild

PIPELINES = ("photos", "detection", "translation", "spectrograms", "videos", "rows")


@dataclass(frozen=True)
class Answer:
    """A tuning's plan for a pipeline, the seconds that it took, and a loader on it, as later epochs find it."""

    name: str
    plan: plumb.LoaderPlan
    seconds: float
    contender: Contender

    @property
    def changes(self) -> bool:
        """True if the plan changes the loader's configuration."""
        return self.plan.config != self.plan.baseline.config


def answer(pipeline: Pipeline, budget_seconds: float, name: str) -> Answer:
    """Tune a pipeline's loader for its own rate, as a user of `plumb.tune` does."""
    begun = time.perf_counter()
    loader = pipeline.loader
    plan = plumb.tune(loader, budget=budget_seconds)
    seconds = time.perf_counter() - begun
    config, rewrites = plan.config, plan.entry.rewrites
    stored = filled_store(loader, config, rewrites)

    def make(indices: Iterable[Any] | None) -> DataLoader[Any]:
        return rebuild(loader, config, indices, STUCK_SECONDS, rewrites, stored)

    return Answer(name, plan, seconds, Contender(name, config, make))


@dataclass(frozen=True)
class Held:
    """Rates in samples per second, measured by turns: the script's own, torch's suggested one, and the grid's best."""

    own: float
    suggested: float
    best: float
    answers: dict[str, float]

    def of_better(self, name: str) -> float:
        """Return an answer's share of the better of the script's own and torch's suggested configuration."""
        return self.answers[name] / max(self.own, self.suggested)

    def of_best(self, name: str) -> float:
        """Return an answer's share of the best of torch's configurations and of all answers."""
        return self.answers[name] / self.best


def hold(pipeline: Pipeline, answers: Sequence[Answer], effort: Effort) -> Held:
    """Measure all answers, and the grid of torch's worker counts, by turns; those that run alike are measured once."""
    loader = pipeline.loader
    suggested = Config(len(os.sched_getaffinity(0)), 2, True)
    grid = [Config(), suggested, *(Config(count, 2, True) for count in pipeline.worker_counts if count)]
    contenders = {_key(config): torch_contender(loader, config) for config in grid}
    for each in answers:
        contenders.setdefault(_key(each.contender.config), each.contender)
    readings = by_turns(
        list(contenders.values()), stream_of(loader), pipeline.batch_size, effort.turns, effort.window_seconds
    )
    rates = dict(zip(contenders, map(_rate, readings), strict=True))
    return Held(
        rates[_key(Config())],
        rates[_key(suggested)],
        max(rates.values()),
        {each.name: rates[_key(each.contender.config)] for each in answers},
    )


def _rate(reading: Reading) -> float:
    return reading.rate.samples_per_second if reading.is_measured else 0.0


def _key(config: Config) -> str:
    """Return what distinguishes configurations while they run."""
    return str(config).replace(", persistent_workers=True", "")
