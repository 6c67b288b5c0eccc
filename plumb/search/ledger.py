"""What was measured of each configuration in one tuning, and what follows for those that differ only in restarts."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plumb.config import Config
from plumb.model import operational
from plumb.model.situation import Situation
from plumb.plan import Rate, Trial
from plumb.search.measure import Chunk, rate_of

STOPPED = "stopped early: slower"
# How outcomes begin that say something of workers as such, and not of what the host has room for.
_BROKEN = ("failed: ", "ended: no batch within", "ended: a worker is stuck")
_DIGITS = re.compile(r"\d+")


class WorkersFailError(Exception):
    """Trials with workers fail all alike. The message is how, in one line."""


@dataclass(frozen=True)
class Reading:
    """A configuration tried for real: the loader's rate, and the loop's over a training, or why there are none.

    The loader's is that of later epochs; in the loop's, the first one counts too, which fills a store.
    `over` is the limit that it came to while it ran, though the model had it fit.
    """

    config: Config
    loader: Rate | None
    loop_samples_per_second: float | None
    outcome: str
    over: str | None = None

    @property
    def loop_rate(self) -> float:
        """Samples per second of the loop; 0 where nothing could be measured, which is worse than all that was."""
        return self.loop_samples_per_second or 0.0

    @property
    def was_stopped(self) -> bool:
        """Whether it was measured only until it was clear that it is slower than another."""
        return self.outcome == STOPPED


@dataclass(frozen=True)
class Memory:
    """What a configuration took beyond the script itself, and what had been predicted; None before the first probe."""

    predicted_bytes: float | None
    measured_bytes: float


@dataclass(frozen=True)
class _Steady:
    """A configuration's rate while it runs, what the start of its workers costs an epoch, and its memory."""

    rate: Rate
    start_seconds: float
    memory: Memory | None


class Ledger:
    """Takes down every reading, and tells `on_trial` of it."""

    def __init__(self, epoch_samples: float | None, seed: int, on_trial: Callable[[Trial], None]) -> None:
        self.trials: list[Trial] = []
        self._steady: dict[Config, _Steady] = {}
        self._epoch_samples = epoch_samples
        self.seed = seed
        self._on_trial = on_trial

    @property
    def slowest_start_seconds(self) -> float:
        """The longest that any configuration's workers took to start."""
        return max((steady.start_seconds for steady in self._steady.values()), default=0.0)

    def knows(self, config: Config) -> bool:
        """Whether the rate of `config` follows from what was measured already."""
        return while_running(config) in self._steady

    def start_seconds(self, config: Config) -> float:
        """What the start of a configuration's workers took; 0 where it was not measured."""
        steady = self._steady.get(while_running(config))
        return steady.start_seconds if steady is not None else 0.0

    def measured(
        self,
        situation: Situation,
        config: Config,
        chunks: Sequence[Chunk],
        start_seconds: float,
        outcome: str = "measured",
        memory: Memory | None = None,
    ) -> Reading:
        """The reading that `chunks` make, in place of any earlier one of `config`; what was seen of memory stays."""
        key = while_running(config)
        if memory is None and key in self._steady:
            memory = self._steady[key].memory
        self._steady[key] = _Steady(rate_of(chunks, self.seed), start_seconds, memory)
        return self.derived(situation, config, outcome)

    def derived(self, situation: Situation, config: Config, outcome: str = "measured") -> Reading:
        """The reading of a configuration that is known, with the start of its workers spread over an epoch."""
        steady = self._steady[while_running(config)]
        start = 0.0 if config.persistent_workers else steady.start_seconds

        def over_an_epoch(rate: float) -> float:
            return float(operational.amortized(rate, self._epoch_samples, start))

        low, high = steady.rate.interval
        rate = Rate(over_an_epoch(steady.rate.samples_per_second), (over_an_epoch(low), over_an_epoch(high)))
        loop = operational.training_rate(situation, config, rate.samples_per_second)
        memory = steady.memory
        self._take_down(
            Trial(
                config,
                operational.loader_rate(situation, config),
                rate.samples_per_second,
                rate.interval,
                outcome,
                memory.predicted_bytes if memory else None,
                memory.measured_bytes if memory else None,
            )
        )
        return Reading(config, rate, loop, outcome)

    def failed(self, config: Config, outcome: str, over: str | None = None) -> Reading:
        """The reading of a configuration that could not be measured, with the reason."""
        self._take_down(Trial(config, None, None, None, outcome))
        return Reading(config, None, None, outcome, over)

    @property
    def has_failed_with_workers(self) -> bool:
        """Whether a trial with workers could not be measured."""
        return any(trial.config.num_workers and trial.samples_per_second is None for trial in self.trials)

    def failure_of_workers(self) -> str:
        """Return how trials with workers fail, where two of them failed alike and none was measured; empty otherwise.

        Trials that came to a limit of the host are not counted: one that takes less may do.
        """
        with_workers = [trial for trial in self.trials if trial.config.num_workers]
        if any(trial.samples_per_second is not None for trial in with_workers):
            return ""
        failures = [trial.outcome for trial in with_workers if trial.outcome.startswith(_BROKEN)]
        # Numbers of processes and of seconds are no difference.
        alike = Counter(_DIGITS.sub("", failure) for failure in failures)
        return next((each.partition(": ")[2] for each in failures if alike[_DIGITS.sub("", each)] > 1), "")

    def _take_down(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._on_trial(trial)


def while_running(config: Config) -> Config:
    """Configurations that differ only in whether workers outlive an epoch run at the same rate within one."""
    return dataclasses.replace(config, persistent_workers=False)
