"""Optuna study over a loader's configurations: first earlier results and the model's favourites, then a sampler.

Every trial is added to the study, also those of the user's own configuration and of the model's calibration, and those
that could not run, with the limit that they exceed: from these the sampler learns which regions to avoid.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState, create_trial

from plumb.core.config import Config
from plumb.core.errors import one_line
from plumb.core.plan import Trial
from plumb.core.thresholds import NOISE
from plumb.model import resource_bounds
from plumb.model.planner import Ranking
from plumb.tuning.search.ledger import TrialResult, while_running
from plumb.tuning.search.optuna_space import Space
from plumb.tuning.search.stopping import RatePair, expected_gain, model_error
from plumb.tuning.search.study_storage import Record, StudyError

# Expected gain below which a further trial is not worth its time.
WORTH_A_TRIAL = 0.01
# Number of the model's best ways that are tried in any case, and of an earlier study's best configurations.
_FAVOURITES, _REMEMBERED = 3, 2
# A way predicted below the best by more than this share is not one of the best ways.
_UNLIKELY = 0.2
# Proposals of known configurations cost nothing, but the number of proposals must be limited.
_PROPOSALS_AT_MOST = 24
# Configurations predicted to be slower by at most this share are tried before one that takes long to start.
_NEXT_TO = 0.05
_OUTCOME, _CONFIG, _OVER = "outcome", "config", "over"

TryOut = Callable[[Config, float, Callable[[int, float], None]], TrialResult]


class _StudySearch:
    """State of one tuning in a study."""

    def __init__(self, ranking: Ranking, known: Sequence[TrialResult], space: Space, record: Record, seed: int) -> None:
        self.readings = {reading.config: reading for reading in known}
        self._ranking = ranking
        self._predicted = {candidate.config: candidate.training_samples_per_second for candidate in ranking.best}
        self._space = space
        self._distributions = space.distributions()
        self._seen: list[RatePair] = []
        self._study = record.open(_sampler(space, seed))
        self._remembered = _remembered(self._study.get_trials(deepcopy=False), space) | _kept(record.earlier, space)
        self._known_rate = self.best.loop_rate
        self._known_running = {while_running(reading.config) for reading in known}
        for reading in known:
            if space.holds(reading.config):
                self._add(reading)

    @property
    def best(self) -> TrialResult:
        return max(self.readings.values(), key=lambda reading: reading.loop_rate)

    @property
    def has_found_better(self) -> bool:
        """True if a trial beat all rates known before, and one ran a configuration that runs unlike the known ones.

        A configuration that differs from a known one only in persistent workers takes no time and shows nothing new.
        """
        measured = (each for each in self.readings.values() if each.loop_samples_per_second is not None)
        has_run = any(while_running(each.config) not in self._known_running for each in measured)
        return has_run and self.best.loop_rate > self._known_rate

    def favourites(self) -> list[Config]:
        """Return the configurations to try first: an earlier tuning's best, then the model's best.

        The model's are of different ways first, because the model may be wrong about those, and then of different
        numbers of workers, which it predicts better.
        """
        remembered = sorted(self._remembered, key=lambda config: -self._remembered[config])
        ways: dict[tuple[Any, ...], Config] = {}
        counts: dict[tuple[Any, ...], Config] = {}
        likely = max(self._predicted.values(), default=0.0) * (1 - _UNLIKELY)
        for candidate in self._ranking.best:
            config = candidate.config
            if candidate.training_samples_per_second >= likely:
                ways.setdefault(_way(config), config)
            counts.setdefault((config.num_workers, _way(config)), config)
        modelled = dict.fromkeys([*ways.values(), *counts.values()])
        return list(dict.fromkeys([*remembered[:_REMEMBERED], *list(modelled)[:_FAVOURITES]]))

    def next_trial(self, config: Config | None) -> tuple[optuna.Trial, Config]:
        """Create a trial of `config`, or of the sampler's proposal if that is None."""
        if config is not None:
            self._study.enqueue_trial(self._space.parameters(config))
        trial = self._study.ask(self._distributions)
        return trial, self._space.config(trial.params)

    def is_known(self, config: Config) -> bool:
        """Return whether `config` was measured, or was clearly worse than the best of an earlier tuning."""
        if config in self.readings:
            return True
        worst = max(self._remembered.values(), default=0.0) * (1 - NOISE)
        return config in self._remembered and self._remembered[config] < worst

    def sooner(self, config: Config, dear_seconds: float) -> Config | None:
        """Return a configuration to try before `config` if that takes longer than `dear_seconds` to start, else None.

        It starts sooner, is predicted to be almost as good, and was not tried yet.
        """

        def start_seconds(one: Config) -> float:
            return float(self._space.inputs.start_seconds(one.num_workers))

        latest = start_seconds(config)
        if latest <= dear_seconds or self.is_known(config):
            return None
        enough = (1 - _NEXT_TO) * self._prediction(config)
        cheaper = [
            one.config
            for one in self._ranking.best
            if one.training_samples_per_second >= enough
            and start_seconds(one.config) < latest
            and not self.is_known(one.config)
        ]
        return min(cheaper, key=start_seconds, default=None)

    def tell_known(self, trial: optuna.Trial, config: Config) -> None:
        reading = self.readings.get(config)
        if reading is None:
            trial.set_user_attr(_OUTCOME, "known from an earlier tuning")
            self._study.tell(trial, self._remembered[config])
        else:
            self._tell(trial, reading)

    def refuse(self, trial: optuna.Trial, outcome: str) -> None:
        trial.set_user_attr(_OUTCOME, outcome)
        self._study.tell(trial, state=TrialState.PRUNED)

    def tell(self, trial: optuna.Trial, reading: TrialResult) -> None:
        self.readings[reading.config] = reading
        if reading.loop_samples_per_second is not None:
            interval = reading.loader.interval if reading.loader else (1.0, 1.0)
            predicted = self._prediction(reading.config)
            self._seen.append(RatePair(predicted, reading.loop_samples_per_second, interval, _way(reading.config)))
        self._tell(trial, reading)

    def most_promising(self, enough: float) -> tuple[float, Config | None]:
        """Return the largest expected gain of an untried configuration (see `stopping.expected_gain`), and that one.

        The gain is limited by the rate `enough`, at which the loader no longer limits the loop.
        """
        best = self.best
        interval = best.loader.interval if best.loader else (best.loop_rate, best.loop_rate)
        errors = {way: model_error(self._seen, way) for way in {_way(each.config) for each in self._ranking.best}}
        gains = [
            (
                expected_gain(each.training_samples_per_second, errors[_way(each.config)], best.loop_rate, interval),
                each.config,
            )
            for each in self._ranking.best
            if not self.is_known(each.config)
        ]
        gain, config = max(gains, key=lambda found: found[0], default=(0.0, None))
        return (min(gain, max(0.0, enough / best.loop_rate - 1.0)) if best.loop_rate > 0 else gain), config

    def _prediction(self, config: Config) -> float:
        inputs = self._space.inputs
        return self._predicted.get(config) or resource_bounds.expected_rate(inputs, config)

    def _tell(self, trial: optuna.Trial, reading: TrialResult) -> None:
        trial.set_user_attr(_OUTCOME, reading.outcome)
        trial.set_user_attr(_CONFIG, str(reading.config))
        if reading.loader is not None:
            trial.set_user_attr("interval", list(reading.loader.interval))
        if reading.loop_samples_per_second is None:
            over = reading.over is not None or any(share > 0 for share in self._space.excess(reading.config))
            if reading.over is not None:
                trial.set_user_attr(_OVER, reading.over)
            # Optuna's sampler learns constraints from pruned trials, not from failed ones.
            self._study.tell(trial, state=TrialState.PRUNED if over else TrialState.FAIL)
        elif reading.was_stopped:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, reading.loop_samples_per_second)

    def _add(self, reading: TrialResult) -> None:
        self._study.add_trial(
            create_trial(
                value=reading.loop_rate,
                params=self._space.parameters(reading.config),
                distributions=self._distributions,
                user_attrs={_OUTCOME: reading.outcome, _CONFIG: str(reading.config)},
            )
        )


def search(
    ranking: Ranking,
    known: Sequence[TrialResult],
    space: Space,
    try_out: TryOut,
    record: Record,
    *,
    deadline: float,
    worth_until: float,
    seed: int,
    enough: float,
    dear_seconds: float = math.inf,
) -> list[TrialResult]:
    """Try configurations until a further trial is not worth its time, and return all measurements.

    An earlier tuning's best and the model's favourites come first. Then the configuration with the largest expected
    gain and the proposal of a TPE sampler alternate. No configuration is tried twice. The search ends when the expected
    gain of every untried configuration is below one percent, or as the arguments say.

    Args:
        ranking: The model's ranking.
        known: Measurements made before.
        space: Search space.
        try_out: Measures a configuration; may stop early if its loop stays below the given rate; reports each chunk's
            rate.
        record: Storage of the study.
        deadline: End of the search, in `time.perf_counter` seconds.
        worth_until: End if a better configuration was found by then, in `time.perf_counter` seconds.
        seed: Seed of the sampler.
        enough: Rate of the loop, in samples per second, that ends the search.
        dear_seconds: Configurations that take longer to start are tried after those that start sooner and are predicted
            to be nearly as fast.

    Raises:
        StudyError: The study can't be opened, or can't be written any more.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study_search = _StudySearch(ranking, known, space, record, seed)
        return _searched(study_search, space, try_out, deadline, worth_until, enough, dear_seconds)
    except StorageInternalError as error:
        raise StudyError(f"the study could not be kept any more: {one_line(error)}") from None


def _searched(
    study_search: _StudySearch,
    space: Space,
    try_out: TryOut,
    deadline: float,
    worth_until: float,
    enough: float,
    dear_seconds: float,
) -> list[TrialResult]:
    favourites = [config for config in study_search.favourites() if not study_search.is_known(config)]
    for proposal in range(len(favourites) + _PROPOSALS_AT_MOST):
        until = min(deadline, worth_until) if study_search.has_found_better else deadline
        if time.perf_counter() > until or study_search.best.loop_rate >= enough:
            break
        if proposal < len(favourites):
            wanted: Config | None = favourites[proposal]
        else:
            gain, wanted = study_search.most_promising(enough)
            if gain < WORTH_A_TRIAL:
                break
        # The model's and the sampler's proposals alternate.
        by_sampler = proposal >= len(favourites) and (proposal - len(favourites)) % 2 == 1
        trial, config = study_search.next_trial(None if by_sampler else wanted)
        sooner = study_search.sooner(config, dear_seconds)
        if sooner is not None:
            study_search.refuse(trial, f"not tried: it takes long to start, and {sooner} should be as good")
            trial, config = study_search.next_trial(sooner)
        if study_search.is_known(config):
            study_search.tell_known(trial, config)
        elif space.contradicts(config):
            study_search.refuse(trial, "not tried: its parts don't go together")
        else:
            study_search.tell(trial, try_out(config, study_search.best.loop_rate, _reporter(trial)))
    return list(study_search.readings.values())


def _way(config: Config) -> tuple[Any, ...]:
    """Return the kind of a configuration: all settings except the numbers of workers and threads and the depth."""
    made = config.fetch_threads > 1, config.fetch_until, config.cache, config.deferred, config.allocator_reuse
    return (config.num_workers > 0, *made)


def _reporter(trial: optuna.Trial) -> Callable[[int, float], None]:
    def report(chunks: int, rate: float) -> None:
        trial.report(rate, chunks)

    return report


def _sampler(space: Space, seed: int) -> optuna.samplers.BaseSampler:
    def constraints(trial: FrozenTrial) -> list[float]:
        return [*space.excess(space.config(trial.params)), 1.0 if _OVER in trial.user_attrs else -1.0]

    with warnings.catch_warnings():
        # Optuna 5 deprecates this argument, but Optuna 4 has no other.
        warnings.simplefilter("ignore")
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=_FAVOURITES + 1, multivariate=True, constraints_func=constraints
        )


def _remembered(trials: Iterable[FrozenTrial], space: Space) -> dict[Config, float]:
    """Return the rates that earlier tunings measured in this study; of several for a configuration, the last."""
    return {
        space.config(trial.params): trial.value
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.value is not None
    }


def _kept(trials: Iterable[Trial], space: Space) -> dict[Config, float]:
    """Return the loop's rates that an interrupted tuning measured; 0 for trials that failed or were ended."""
    inputs = space.inputs
    kept = {}
    for trial in trials:
        if space.holds(trial.config):
            # The interrupted tuning may have chosen a store of another size.
            config = space.config(space.parameters(trial.config))
            kept[config] = resource_bounds.training_rate(inputs, config, trial.samples_per_second or 0.0)
    return kept
