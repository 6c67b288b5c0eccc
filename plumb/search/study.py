"""An Optuna study over a loader's configurations: the model's favourites first, then a sampler, never a repeat."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from plumb.model.situation import Freedom
from plumb.plan import Config
from plumb.search.ledger import Reading

# Stop after so many trials in a row that improved by less than what is worth a trial.
_DULL_TRIALS = 2
_WORTH_A_TRIAL = 0.01
# The sampler may propose what was tried already; that costs nothing, but it must end.
_PROPOSALS_AT_MOST = 40


def search(
    favourites: Sequence[Config],
    freedom: Freedom,
    try_out: Callable[[Config, float], Reading],
    *,
    deadline: float,
    seed: int,
    enough: float,
) -> list[Reading]:
    """Tries `favourites` in their order, then what a TPE sampler proposes, each configuration once.

    `try_out` measures one configuration, and may stop early when its loop stays below the rate it is given. Ends at
    `deadline` (`time.perf_counter` seconds), when a loop reaches `enough` samples per second, or when trials no
    longer improve on the best.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=len(favourites), multivariate=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for config in favourites:
        study.enqueue_trial(_parameters(config, freedom), skip_if_exists=True)
    readings: dict[Config, Reading] = {}
    best, dull = 0.0, 0
    for proposal in range(_PROPOSALS_AT_MOST):
        if time.perf_counter() > deadline or best >= enough:
            break
        if proposal >= len(favourites) and dull >= _DULL_TRIALS:
            break
        trial = study.ask(_distributions(freedom))
        config = _config(trial.params)
        if config not in readings:
            readings[config] = reading = try_out(config, best)
            rate = reading.loop_rate
            dull = 0 if rate > best * (1 + _WORTH_A_TRIAL) else dull + 1
            best = max(best, rate)
        _tell(study, trial, readings[config])
    return list(readings.values())


def _tell(study: optuna.Study, trial: optuna.Trial, reading: Reading) -> None:
    if reading.loop_samples_per_second is None:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, reading.loop_samples_per_second)


def _distributions(freedom: Freedom) -> dict[str, BaseDistribution]:
    return {
        "num_workers": IntDistribution(min(freedom.num_workers), max(freedom.num_workers)),
        "prefetch_factor": CategoricalDistribution(freedom.prefetch_factor),
        "persistent_workers": CategoricalDistribution(freedom.persistent_workers),
        "pin_memory": CategoricalDistribution(freedom.pin_memory),
        "worker_torch_threads": CategoricalDistribution(freedom.worker_torch_threads),
        "in_order": CategoricalDistribution(freedom.in_order),
    }


def _parameters(config: Config, freedom: Freedom) -> dict[str, Any]:
    """The point of the space that stands for `config`; what has no meaning without workers gets a fixed value."""
    return {
        "num_workers": config.num_workers,
        "prefetch_factor": config.prefetch_factor or freedom.prefetch_factor[0],
        "persistent_workers": config.persistent_workers if config.num_workers else freedom.persistent_workers[0],
        "pin_memory": config.pin_memory,
        "worker_torch_threads": config.worker_torch_threads if config.num_workers else freedom.worker_torch_threads[0],
        "in_order": config.in_order if config.num_workers else freedom.in_order[0],
    }


def _config(parameters: dict[str, Any]) -> Config:
    if parameters["num_workers"] == 0:
        return Config(pin_memory=parameters["pin_memory"])
    return Config(**parameters)
