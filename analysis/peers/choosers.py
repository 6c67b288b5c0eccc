"""Ways to choose the configuration of torch's loader: rules of thumb, grids, searches, and packages that do it."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import optuna
import torch

from analysis.measuring import Contender, best, by_turns, stream_of, torch_contender
from analysis.oracle import by_optuna
from analysis.peers.environments import CannotRunError, Environment
from analysis.peers.jobs import answer_of, job_of
from analysis.pipelines.pipeline import Pipeline
from analysis.results import Effort
from analysis.tuned import Tuned
from plumb.core.config import Config
from plumb.host import Limits

WORKERS_PER_GPU = 4
# What a user gives a package that has trials of a fixed number of steps: about so long for each.
_TRIAL_SECONDS = 20.0
_STEPS_AT_LEAST, _STEPS_AT_MOST = 5, 100
_PACKAGE_PATIENCE_SECONDS = 1200.0


@dataclass(frozen=True)
class Choice:
    """A contender that somebody chose in so many seconds, and what is to be said about it."""

    peer: str
    contender: Contender
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Chooser:
    """A way to choose, by name, and whether it is too slow for a quick run.

    `choose` raises CannotRunError with its reason where it can't.
    """

    name: str
    choose: Callable[[Pipeline, Tuned, Effort], Choice]
    is_slow: bool = False


def rules_of_thumb() -> list[Chooser]:
    """Return what is advised without a measurement."""
    gpus = max(1, torch.cuda.device_count())
    counts = {
        "torch's suggested workers": len(os.sched_getaffinity(0)),
        "workers = cores": os.cpu_count() or 1,
        "4 workers per GPU": WORKERS_PER_GPU * gpus,
    }
    return [_fixed("torch's default", Config()), *(_fixed(name, Config(n, 2, True)) for name, n in counts.items())]


def _fixed(name: str, config: Config) -> Chooser:
    return Chooser(name, lambda pipeline, tuned, effort: Choice(name, torch_contender(pipeline.loader, config), 0.0))


def by_grid(pipeline: Pipeline, tuned: Tuned, effort: Effort) -> Choice:
    """Every worker count with two depths, one look at each: what a careful user does, and DPT."""
    begun = time.perf_counter()
    counts = [count for count in pipeline.worker_counts if count]
    configs = [Config(), *(Config(count, depth, True) for count in counts for depth in (2, 4))]
    contenders = [torch_contender(pipeline.loader, config) for config in configs]
    stream = stream_of(pipeline.loader)
    readings = by_turns(contenders, stream, pipeline.batch_size, 1, effort.window_seconds)
    chosen = best(readings).contender.config
    return Choice("a grid", torch_contender(pipeline.loader, chosen), time.perf_counter() - begun)


def by_search(name: str, sampler: Callable[[], optuna.samplers.BaseSampler]) -> Chooser:
    """Return a search over all that plumb may choose, without its model, for as long as plumb took."""

    def choose(pipeline: Pipeline, tuned: Tuned, effort: Effort) -> Choice:
        config = by_optuna(pipeline, tuned, tuned.seconds, effort.window_seconds, sampler())
        return Choice(name, tuned.contender(config), tuned.seconds, "with plumb's loader, without its model")

    return Chooser(name, choose, is_slow=True)


# Both use the torch that is measured, so they must be told to leave it alone.
LOADTUNE = Environment("loadtune", ("loadtune",), True)
PARAM_HELPER = Environment("param_helper", ("dataloader-param-helper", "py-cpuinfo"), True)


def by_loadtune(pipeline: Pipeline, tuned: Tuned, effort: Effort) -> Choice:
    """Run the package loadtune, with the dataset described as its documents say."""
    _torchs_own_order(pipeline)
    own = tuned.choice.baseline.samples_per_second
    steps = math.ceil(min(_TRIAL_SECONDS, 10 * effort.window_seconds) * own / pipeline.batch_size)
    steps = min(max(steps, _STEPS_AT_LEAST), _STEPS_AT_MOST)
    return _asked("loadtune", LOADTUNE, pipeline, steps=steps)


def by_param_helper(pipeline: Pipeline, tuned: Tuned, effort: Effort) -> Choice:
    """Run the package dataloader-param-helper as its documents say."""
    _torchs_own_order(pipeline)
    if pipeline.collate_fn is not None:
        raise CannotRunError("it takes no collate of the user's")
    return _asked("dataloader-param-helper", PARAM_HELPER, pipeline)


def _torchs_own_order(pipeline: Pipeline) -> None:
    if pipeline.is_iterable:
        raise CannotRunError("it shuffles, which an iterable dataset can't be")
    if pipeline.batch_sampler is not None:
        raise CannotRunError("it makes the loader itself, and takes no batch sampler")


def _asked(name: str, environment: Environment, pipeline: Pipeline, **settings: int) -> Choice:
    environment.require()
    job = job_of(pipeline, Limits.detect(), **settings)
    begun = time.perf_counter()
    found, _ = answer_of(environment, environment.name, job, watch=False, patience_seconds=_PACKAGE_PATIENCE_SECONDS)
    seconds = time.perf_counter() - begun
    config = Config(**found["config"])
    return Choice(name, torch_contender(pipeline.loader, config), seconds, found["note"])


CHOOSERS = (
    *rules_of_thumb(),
    Chooser("a grid", by_grid),
    by_search("random search", lambda: optuna.samplers.RandomSampler(seed=0)),
    by_search("Optuna alone", lambda: optuna.samplers.TPESampler(seed=0, multivariate=True)),
    Chooser("loadtune", by_loadtune, is_slow=True),
    Chooser("dataloader-param-helper", by_param_helper, is_slow=True),
)
