"""A loader tuned by plumb without a script, and loaders that run on any of its configurations."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from analysis.measuring import Contender
from plumb.events import Event, TrialDone
from plumb.host import Limits
from plumb.options import Options
from plumb.plan import Config, Rewrites
from plumb.runtime.loader import rebuild
from plumb.tuning import Choice, Step, Subject, Tuner

# Workers that stay silent for so long are taken for stuck.
_STUCK_SECONDS = 60.0


@dataclass(frozen=True)
class Tuned:
    """What plumb found for a loader, and how long it measured: in all, and until its model was calibrated."""

    loader: DataLoader[Any]
    choice: Choice
    rewrites: Rewrites
    seconds: float
    model_seconds: float

    @property
    def config(self) -> Config:
        """The configuration that it chose."""
        return self.choice.tuned.config

    def contender(self, config: Config, name: str = "") -> Contender:
        """A loader of plumb's with `config`, to be measured."""
        return Contender(name or f"plumb, {config}", config, lambda indices: self.make(config, indices))

    def make(self, config: Config, indices: Iterable[Any] | None) -> DataLoader[Any]:
        """A loader of plumb's with `config` over `indices`, or over the user's own sampler where they are None."""
        return rebuild(self.loader, config, indices, _STUCK_SECONDS)

    def fill(self, configs: Iterable[Config]) -> None:
        """Runs an epoch for each cache that `configs` name, so that they are measured as in a later one."""
        for cache in dict.fromkeys(config.cache for config in configs if config.cache):
            for _ in self.make(Config(2, 2, cache=cache), None):
                pass

    def predicted(self, config: Config) -> float:
        """The model's word: samples per second over a real epoch."""
        return self.choice.situation.loader_rate(config)

    def why(self, config: Config) -> str:
        """The model's bounds for `config`, the smallest first, in words."""
        bounds = self.choice.situation.predict(config).bounds
        return ", ".join(f"{name} {rate:,.0f}" for name, rate in sorted(bounds.items(), key=lambda item: item[1]))


def tune_loader(loader: DataLoader[Any], budget_seconds: float, step: Step | None = None) -> Tuned:
    """Tunes `loader` for its own rate, or for that of `step`, within about `budget_seconds`."""
    begun = time.perf_counter()
    trials: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, TrialDone):
            trials.append(time.perf_counter() - begun)

    subject = Subject("loader", loader, float(loader.batch_size or 1), step, None)
    options = Options(budget_seconds, Limits.detect())
    choice = Tuner(subject, options, budget_seconds, options.pace_seconds, note).choose()
    # The first reading is that of the run that calibrates the model.
    return Tuned(loader, choice, Rewrites(), time.perf_counter() - begun, trials[0] if trials else math.nan)
