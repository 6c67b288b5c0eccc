"""A loader tuned by plumb without a script, and loaders that run on any of its configurations."""

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader

from analysis.measuring import Contender
from plumb.core.config import CacheChoice, Config, Rewrites
from plumb.core.events import Event, TrialDone
from plumb.host import Limits
from plumb.model import resource_bounds
from plumb.model.demand import demand
from plumb.model.twin import simulated_rate
from plumb.runtime.iterator_setup import cut_of
from plumb.runtime.loader import rebuild
from plumb.runtime.store.dataset_store import DatasetStore
from plumb.tuning.loader_under_test import LoaderUnderTest, TrainingStep, TuningResult
from plumb.tuning.options import Options
from plumb.tuning.search.optuna_space import Space
from plumb.tuning.tuner import Tuner

# Workers that stay silent for so long are taken for stuck.
STUCK_SECONDS = 60.0
_SIMULATED_BATCHES = 2000
_numbers = itertools.count()


@dataclass(frozen=True)
class Tuned:
    """Findings of plumb for a loader, and the time that it measured: in all, and until its model was calibrated."""

    loader: DataLoader[Any]
    choice: TuningResult
    seconds: float
    model_seconds: float
    filled: dict[CacheChoice, DatasetStore] = field(default_factory=dict)
    finds_nothing: bool = False

    @property
    def config(self) -> Config:
        """The configuration that it chose."""
        return self.choice.tuned.config

    @property
    def rewrites(self) -> Rewrites:
        """Rewrites that it found harmless."""
        return self.choice.available.rewrites

    @property
    def space(self) -> Space:
        """All that it might have chosen."""
        return Space(self.choice.search_space, self.choice.inputs)

    def contender(self, config: Config, name: str = "") -> Contender:
        """Return a loader of plumb's with `config`, to be measured."""
        return Contender(name or f"plumb, {config}", config, lambda indices: self.make(config, indices))

    def make(self, config: Config, indices: Iterable[Any] | None) -> DataLoader[Any]:
        """Return a loader of plumb's with `config` over `indices`, or over the user's own sampler if they are None.

        It finds its store as `fill` left it, or else fills one of its own.
        """
        stored, cut = self.filled.get(config.cache) if config.cache else None, cut_of(config, self.rewrites)
        if self.finds_nothing and config.cache and cut:
            # By the same name, it would be one that another loader has filled.
            stored = DatasetStore(self.loader.dataset, cut, config.cache, apart=f"-first-{next(_numbers)}")
        return rebuild(self.loader, config, indices, STUCK_SECONDS, self.rewrites, stored)

    def fill(self, configs: Iterable[Config]) -> None:
        """Fill each store that `configs` name by an epoch, so that they are measured as in a later one."""
        for config in configs:
            if config.cache and config.cache not in self.filled:
                stored = filled_store(self.loader, config, self.rewrites)
                if stored is not None:
                    self.filled[config.cache] = stored

    def with_nothing_stored(self) -> "Tuned":
        """Return the same, with loaders that fill their own stores."""
        return dataclasses.replace(self, filled={}, finds_nothing=True)

    def predicted(self, config: Config) -> float:
        """Return the rate that the model's bounds allow: samples per second over a real epoch."""
        return resource_bounds.loader_rate(self.choice.inputs, config)

    def simulated(self, config: Config) -> float:
        """Return the rate of the model's twin of torch's loader: samples per second over a real epoch."""
        inputs = self.choice.inputs
        steady = simulated_rate(inputs, config, _SIMULATED_BATCHES)
        start = 0.0 if config.persistent_workers else float(inputs.start_seconds(config.num_workers))
        return float(resource_bounds.amortized(steady, inputs.epoch_samples, start))

    def predicted_cpu_seconds(self, config: Config) -> float:
        """Return the CPU seconds of all processes together that the model predicts for a sample."""
        wanted = demand(self.choice.inputs, config)
        return wanted.cpu_seconds + wanted.switching_cpu_seconds + wanted.main_seconds

    def why(self, config: Config) -> str:
        """Return the model's bounds for `config`, the smallest first, in words."""
        bounds = resource_bounds.bounds(self.choice.inputs, config)
        return ", ".join(f"{name} {rate:,.0f}" for name, rate in sorted(bounds.items(), key=lambda item: item[1]))


def filled_store(loader: DataLoader[Any], config: Config, rewrites: Rewrites) -> DatasetStore | None:
    """Return the store of `config`, filled by an epoch of `loader`; None if it has none."""
    cut = cut_of(config, rewrites)
    if config.cache is None or cut is None:
        return None
    stored = DatasetStore(loader.dataset, cut, config.cache)
    filling = Config(max(2, len(os.sched_getaffinity(0))), 2, cache=config.cache, start_method=config.start_method)
    for _ in rebuild(loader, filling, None, STUCK_SECONDS, rewrites):
        pass
    return stored


def tune_loader(
    loader: DataLoader[Any],
    budget_seconds: float,
    step: TrainingStep | None = None,
    cache_memory_bytes: float | None = None,
    samples_per_batch: float | None = None,
    on_device: bool = False,
    may_reorder: bool = False,
) -> Tuned:
    """Tunes `loader` for its own rate, or for that of `step`, within about `budget_seconds`.

    `samples_per_batch` is the mean where a batch sampler makes batches of different sizes; `on_device` allows batches
    to arrive on the GPU, `may_reorder` another order of samples.
    """
    begun = time.perf_counter()
    trials: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, TrialDone):
            trials.append(time.perf_counter() - begun)

    subject = LoaderUnderTest("loader", loader, samples_per_batch or float(loader.batch_size or 1), step, None)
    options = Options(
        budget_seconds,
        Limits.detect(),
        may_reorder=may_reorder,
        cache_memory_bytes=cache_memory_bytes,
        on_device=on_device,
    )
    choice = Tuner(subject, options, budget_seconds, options.window_seconds, note).choose()
    # The first readings are those of the runs that calibrate the model: with one worker, and with one for each core.
    model_seconds = trials[min(1, len(trials) - 1)] if trials else math.nan
    return Tuned(loader, choice, time.perf_counter() - begun, model_seconds)
