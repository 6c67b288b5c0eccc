"""Tuning of all loaders that feed one loop: each for the loop's rate, then compared together in the loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.core.errors import TuningError, UsersError, one_line
from plumb.core.plan import EndToEnd
from plumb.host import Limits
from plumb.model import constraints
from plumb.tuning import explanations
from plumb.tuning.loader_under_test import LoaderUnderTest, TrainingStep, TuningResult
from plumb.tuning.measure.loop_companions import Companion, Companions
from plumb.tuning.measure.loop_comparison import LoopComparison
from plumb.tuning.measure.samples_per_batch import samples_per_batch
from plumb.tuning.measure.training_loop import LoopMeter
from plumb.tuning.restraint import changed_by_loop
from plumb.tuning.spending import Spending


class LoaderTuner(Protocol):
    """Tuner of one loader, which can also remake the loader with another configuration."""

    def choose(self) -> TuningResult:
        """Find the best configuration. Raise TuningError, or UsersError with the dataset's error."""

    def loader(self, config: Config) -> DataLoader[Any]:
        """Make the loader with a configuration, for the user's loop. Raise StoreError, and the dataset's errors."""


MakeTuner = Callable[[LoaderUnderTest, Limits], LoaderTuner]


@dataclass
class TunedCompanion:
    """Result of tuning another loader of the loop.

    `scale` is the number of its samples that the loop reads per sample of the loader that is tuned first.
    """

    companion: Companion
    tuner: LoaderTuner
    choice: TuningResult
    step: TrainingStep | None
    samples_per_batch: float
    scale: float
    spent: Spending

    def settle(self, is_taken: bool, is_plain_taken: bool, through: str) -> TuningResult:
        """Return the choice after the loop's comparison.

        Args:
            is_taken: Whether the loop was faster on the chosen configurations.
            is_plain_taken: Whether it was faster on torch's own arguments alone.
            through: Name of the loader through which the loop was measured.
        """
        choice, changed = self.choice, self.companion.changed
        if not is_taken or (changed and choice.tuned.config.makes_ahead):
            choice = dataclasses.replace(choice, tuned=choice.baseline)
        if not is_plain_taken or (changed and choice.plain.config.makes_ahead):
            choice = dataclasses.replace(choice, plain=choice.baseline)
        return choice.noting(changed_by_loop(changed) if changed else explanations.feeds(through))

    def in_loop(self, loop: EndToEnd | None) -> EndToEnd | None:
        """Return the loop's rates in samples of this loader; None without any."""
        if loop is None:
            return None
        return dataclasses.replace(
            loop,
            baseline=loop.baseline * self.scale,
            tuned=loop.tuned * self.scale,
            baseline_interval=_scaled(loop.baseline_interval, self.scale),
            tuned_interval=_scaled(loop.tuned_interval, self.scale),
        )


class CompanionTuning:
    """Tuning of all other loaders of a loop; has no effect if there are none."""

    def __init__(self, loop: LoopMeter) -> None:
        self._loop = loop
        self.tuned: list[TunedCompanion] = []
        self.untuned: list[str] = []
        self.companions = Companions(loop.companions)

    @property
    def count(self) -> int:
        """Number of other loaders that the loop reads."""
        return len(self._loop.companions)

    def cpu_seconds(self, samples_per_batch: float) -> float:
        """Return the main process's CPU seconds for their batches, per sample of the loader that is tuned first."""
        each = (other.cpu_seconds_per_batch * other.batches_per_step for other in self._loop.companions)
        return sum(each) / samples_per_batch

    def tune(
        self,
        first: TuningResult,
        step: TrainingStep | None,
        waiting_share: float | None,
        limits: Limits,
        make_tuner: MakeTuner,
    ) -> None:
        """Tune each loader for the loop, within the resources that the choices before it leave.

        A loader that can't be tuned keeps its configuration, and `untuned` gets the reason.
        """
        taken = [first]
        for companion in self._loop.companions:
            spent, own = Spending(), samples_per_batch(companion.loader, companion.known.samples_per_batch)
            scale = own * companion.batches_per_step / self._loop.samples_per_batch
            theirs = _step_of(step, scale, first)
            subject = LoaderUnderTest(
                companion.known.name,
                companion.loader,
                own,
                theirs,
                waiting_share,
                companion.changed,
                self._loop.open,
                self._loop.skips,
            )
            try:
                tuner = make_tuner(subject, _left(limits, taken))
                choice = tuner.choose()
            except TuningError as error:
                self.untuned.append(f"{companion.known.name} ({companion.known.site}) was not tuned: {error}")
            except UsersError as users:
                reason = one_line(users.error)
                self.untuned.append(f"{companion.known.name} ({companion.known.site}) was not tuned: {reason}")
            else:
                taken.append(choice)
                self.tuned.append(TunedCompanion(companion, tuner, choice, theirs, own, scale, spent))

    def wants_change(self, plain: bool = False) -> bool:
        """Return whether a loader should change its configuration; with `plain`, of torch's own arguments alone."""
        return any(_wanted(each.choice, plain) != each.choice.baseline.config for each in self.tuned)

    @property
    def is_plain_other(self) -> bool:
        """True if a loader's choice goes beyond torch's own arguments."""
        return any(each.choice.plain.config != each.choice.tuned.config for each in self.tuned)

    def take_plain(self) -> None:
        """Replace all choices by those of torch's own arguments alone."""
        for each in self.tuned:
            each.choice = dataclasses.replace(each.choice, tuned=each.choice.plain)

    def start(self, plain: bool = False) -> None:
        """Start all loaders on their choices. Raise StoreError, UsersError, and a loader's errors."""
        started: dict[int, tuple[DataLoader[Any], int]] = {}
        for each in self.tuned:
            config = _wanted(each.choice, plain)
            if config != each.choice.baseline.config:
                started[id(each.companion)] = each.tuner.loader(config), config.batches_in_flight
        self.companions.start([started.get(id(companion)) for companion in self._loop.companions])

    def finished(self, compared: LoopComparison) -> LoopComparison:
        """Give the loop its own loaders back, and add to the comparison the failure of another loader, if any."""
        self.companions.give_own()
        failure = self.companions.failure
        return dataclasses.replace(compared, failure=failure) if failure and not compared.failure else compared

    def named(self, config: Config, plain: bool = False) -> Config | str:
        """Return a configuration of the first loader, followed by those of the others if there are any."""
        if not self.tuned:
            return config
        others = "; ".join(f"{each.companion.known.name}: {_wanted(each.choice, plain)}" for each in self.tuned)
        return f"{config} ({others})"

    def note(self, choice: TuningResult) -> TuningResult:
        """Return the choice for the first loader with a sentence on the other loaders that the loop reads."""
        names = [companion.known.name for companion in self._loop.companions]
        return choice.noting(explanations.beside(names)) if names else choice


def _wanted(choice: TuningResult, plain: bool) -> Config:
    return choice.plain.config if plain else choice.tuned.config


def _step_of(step: TrainingStep | None, scale: float, first: TuningResult) -> TrainingStep | None:
    """Return the step relative to another loader's samples; the first loader's CPU time counts as the step's."""
    if step is None:
        return None
    burnt = step.cpu_seconds + first.inputs.cost_in_worker.cpu_seconds
    return TrainingStep(step.samples_per_second * scale, burnt / scale, step.blocks)


def _left(limits: Limits, taken: list[TuningResult]) -> Limits:
    """Return the limits minus the needs of the chosen configurations."""
    for choice in taken:
        config = choice.tuned.config
        needs = constraints.needs(choice.inputs, config, config.num_workers, config.batches_in_flight)
        memory = float(needs["memory"]) - choice.inputs.footprint.main_bytes
        limits = limits.lowered(
            memory_bytes=max(0.0, limits.memory_bytes - memory),
            shm_bytes=max(0.0, limits.shm_bytes - float(needs["shared memory"])),
            max_workers=max(0.0, limits.max_workers - config.num_workers),
        )
    return limits


def _scaled(interval: tuple[float, float], scale: float) -> tuple[float, float]:
    return interval[0] * scale, interval[1] * scale
