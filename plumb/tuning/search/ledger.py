"""Ledger of one tuning's measurements, from which those of configurations that differ only in restarts follow."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plumb.core.config import Config
from plumb.core.errors import PlumbError
from plumb.core.log import logger
from plumb.core.plan import Rate, Trial
from plumb.model import resource_bounds
from plumb.model.inputs import ModelInputs
from plumb.tuning.measure.throughput import Chunk, rate_of

_log = logger(__name__)

STOPPED = "stopped early: slower"
# Beginnings of outcomes caused by workers as such, and not by limits of the host.
_BROKEN = ("failed: ", "ended: no batch within", "ended: a worker is stuck")
# Beginnings of the outcomes of trials that were begun and could not go on.
_BROKE_OFF = ("failed: ", "ended: ")
_DIGITS = re.compile(r"\d+")


class WorkersFailError(PlumbError):
    """All trials with workers fail alike. The message is the failure, in one line."""


@dataclass(frozen=True)
class TrialResult:
    """Result of a configuration's trial: the rates of the loader and of the loop, or the reason for their absence.

    `loader` is the rate of later epochs. `loop_samples_per_second` is over a training, and includes the first epoch,
    which fills a store. `over` is the limit that the trial reached although the model predicted that it fits.
    """

    config: Config
    loader: Rate | None
    loop_samples_per_second: float | None
    outcome: str
    over: str | None = None

    @property
    def loop_rate(self) -> float:
        """Samples per second of the loop; 0, the worst, if nothing could be measured."""
        return self.loop_samples_per_second or 0.0

    @property
    def was_stopped(self) -> bool:
        """True if the trial was stopped once it was clearly slower than another one."""
        return self.outcome == STOPPED


@dataclass(frozen=True)
class Memory:
    """Memory of a configuration in addition to the script's own; the prediction is None before the first probe."""

    predicted_bytes: float | None
    measured_bytes: float


@dataclass(frozen=True)
class _Steady:
    """Rate of a configuration within an epoch, the seconds to start its workers, and its memory."""

    rate: Rate
    start_seconds: float
    memory: Memory | None


class Ledger:
    """Record of all measurements; each is passed to `on_trial`."""

    def __init__(self, epoch_samples: float | None, seed: int, on_trial: Callable[[Trial], None]) -> None:
        self.trials: list[Trial] = []
        self._steady: dict[Config, _Steady] = {}
        self._epoch_samples = epoch_samples
        self.seed = seed
        self._on_trial = on_trial

    @property
    def slowest_start_seconds(self) -> float:
        """Longest time that any configuration's workers took to start, in seconds."""
        return max((steady.start_seconds for steady in self._steady.values()), default=0.0)

    def knows(self, config: Config) -> bool:
        """Return whether the rate of `config` follows from earlier measurements."""
        return while_running(config) in self._steady

    def start_seconds(self, config: Config) -> float:
        """Return the seconds to start a configuration's workers; 0 if they were not measured."""
        steady = self._steady.get(while_running(config))
        return steady.start_seconds if steady is not None else 0.0

    def measured(
        self,
        inputs: ModelInputs,
        config: Config,
        chunks: Sequence[Chunk],
        start_seconds: float,
        outcome: str = "measured",
        memory: Memory | None = None,
    ) -> TrialResult:
        """Record `chunks` as the measurement of `config`, replacing an earlier one, and return it.

        Args:
            inputs: Model inputs, for the loop's rate.
            config: Measured configuration.
            chunks: Chunks of whole rounds in steady state.
            start_seconds: Seconds to start the workers.
            outcome: Outcome in words.
            memory: Memory of the trial; None keeps that of an earlier measurement.
        """
        key = while_running(config)
        if memory is None and key in self._steady:
            memory = self._steady[key].memory
        self._steady[key] = _Steady(rate_of(chunks, self.seed), start_seconds, memory)
        return self.amortized_result(inputs, config, outcome)

    def amortized_result(self, inputs: ModelInputs, config: Config, outcome: str = "measured") -> TrialResult:
        """Record and return the measurement that follows for `config`, the start of its workers spread over an epoch.

        Raises:
            KeyError: `config` is not known (see `knows`).
        """
        steady = self._steady[while_running(config)]
        start = 0.0 if config.persistent_workers else steady.start_seconds

        def over_an_epoch(rate: float) -> float:
            return float(resource_bounds.amortized(rate, self._epoch_samples, start))

        low, high = steady.rate.interval
        rate = Rate(over_an_epoch(steady.rate.samples_per_second), (over_an_epoch(low), over_an_epoch(high)))
        loop = resource_bounds.training_rate(inputs, config, rate.samples_per_second)
        memory = steady.memory
        self._record_trial(
            Trial(
                config,
                resource_bounds.loader_rate(inputs, config),
                rate.samples_per_second,
                rate.interval,
                outcome,
                memory.predicted_bytes if memory else None,
                memory.measured_bytes if memory else None,
                loop,
            )
        )
        return TrialResult(config, rate, loop, outcome)

    def failed(self, config: Config, outcome: str, over: str | None = None) -> TrialResult:
        """Record and return that `config` could not be measured: `outcome` is the reason, `over` the limit it hit."""
        self._record_trial(Trial(config, None, None, None, outcome))
        return TrialResult(config, None, None, outcome, over)

    @property
    def has_failed_with_workers(self) -> bool:
        """True if a trial with workers could not be measured."""
        return any(trial.config.num_workers and trial.samples_per_second is None for trial in self.trials)

    def failure_of_workers(self) -> str:
        """Return the failure of trials with workers if two failed alike and none was measured, else an empty string.

        Trials that reached a limit of the host are not counted, because one with lower needs may work.
        """
        with_workers = [trial for trial in self.trials if trial.config.num_workers]
        if any(trial.samples_per_second is not None for trial in with_workers):
            return ""
        failures = [trial.outcome for trial in with_workers if trial.outcome.startswith(_BROKEN)]
        # Failures that differ only in process ids or seconds are alike.
        alike = Counter(_DIGITS.sub("", failure) for failure in failures)
        return next((each.partition(": ")[2] for each in failures if alike[_DIGITS.sub("", each)] > 1), "")

    def has_failed(self, config: Config) -> bool:
        """Return whether a trial of `config` broke off, or all trials with workers broke and `config` has some.

        A trial that was not begun, or for which there was no time, shows nothing.
        """
        same = [trial for trial in self.trials if while_running(trial.config) == while_running(config)]
        if any(trial.samples_per_second is None and trial.outcome.startswith(_BROKE_OFF) for trial in same):
            return not self.knows(config)
        with_workers = [trial for trial in self.trials if trial.config.num_workers]
        return (
            config.num_workers > 0
            and all(trial.samples_per_second is None for trial in with_workers)
            and any(trial.outcome.startswith(_BROKEN) for trial in with_workers)
        )

    def _record_trial(self, trial: Trial) -> None:
        self.trials.append(trial)
        rate, bound = trial.samples_per_second, trial.predicted_samples_per_second
        _log.debug("%s: %s samples/s (predicted: %s): %s", trial.config, rate, bound, trial.outcome)
        self._on_trial(trial)


def while_running(config: Config) -> Config:
    """Return a representative of the configurations with the same rate within an epoch: all but worker persistence."""
    return dataclasses.replace(config, persistent_workers=False)
