"""Planner: all configurations of the search space, the limits they exceed, and the order in which to try the rest."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plumb.core.config import CacheChoice, Config
from plumb.core.plan import SampleCost
from plumb.host import Limits
from plumb.model import constraints, resource_bounds
from plumb.model.demand import demand, go_together
from plumb.model.inputs import CutCost, ModelInputs, SearchSpace
from plumb.model.twin import simulated_rate

# Predictions this close are equal; among equal ones the cheapest configuration comes first.
_EQUAL = 0.01
_WORKERS_AT_MOST = 64
# Batch times vary, so a few more workers than the mean requires may help.
_TO_SPARE = 1.5
# Reads at once to climb to, over those that are just enough, and the step rate to feed, over that which was measured.
_READS_TO_SPARE, _STEPS_TO_SPARE = 2.0, 4.0
_READS_AT_MOST, _SHARE_FOR_READS = 1024, 0.5
# Number of ways to make samples that are simulated, with every prefetch depth, and batches per simulation.
_SIMULATED_WAYS, _SIMULATED_BATCHES = 8, 300
# Sharpness of the transition where a loader as fast as its loop begins to limit it, because batch times vary: with 8,
# two equally fast parts reach 0.92 of their rate together, and a loader with a fifth to spare 0.97.
_SHARPNESS = 8.0
# A store's size over that of its values, and the size of an empty store.
_STORE_SLACK, _STORE_BYTES = 1.02, 2**20
# Longest ranking that is returned.
_MOST = 100


@dataclass(frozen=True)
class Candidate:
    """A configuration that fits, with the predicted rate of the training loop.

    `samples_per_second` is the rate of later epochs; `training_samples_per_second` includes the first one, which fills
    a store.
    """

    config: Config
    samples_per_second: float
    training_samples_per_second: float


@dataclass(frozen=True)
class Ranking:
    """The best configurations that fit, by predicted rate, and among equal rates the cheapest first.

    `considered` is the number of all configurations, and `excluded` how many of them exceeded each limit.
    """

    best: tuple[Candidate, ...]
    considered: int
    excluded: dict[str, int]


def worker_counts(cost: SampleCost, limits: Limits, step: float | None) -> tuple[int, ...]:
    """Return the worker counts to consider; more than the cores only if waiting samples leave the CPU idle.

    A CPU quota limits CPU seconds and not waiting, so a source that waits may want many more workers than cores.

    Args:
        cost: Cost of a sample in a worker.
        limits: Limits of the host.
        step: Samples per second of the training step; None if unknown.

    """
    in_worker = cost.cpu_seconds + cost.wait_seconds
    target = min(limits.cpus / max(cost.cpu_seconds + cost.main_seconds, 1e-9), step or math.inf)
    for_the_waits = math.ceil(_TO_SPARE * target * in_worker) if cost.wait_seconds > cost.cpu_seconds else 0
    most = max(math.ceil(limits.cpus) + 2, for_the_waits)
    return tuple(range(int(min(most, _WORKERS_AT_MOST, limits.max_workers)) + 1))


def reads_worth(cost: SampleCost, limits: Limits, step: float | None) -> int:
    """Return how many samples may be read at once: as many as the CPUs and the step can use, within the limits."""
    in_worker = cost.cpu_seconds + cost.wait_seconds
    target = min(limits.cpus / max(cost.cpu_seconds + cost.main_seconds, 1e-9), _STEPS_TO_SPARE * (step or math.inf))
    # Each has a thread, and a connection that is a file.
    allowed = min(limits.max_connections, _SHARE_FOR_READS * min(limits.processes, limits.open_files))
    return max(1, int(min(math.ceil(_READS_TO_SPARE * target * in_worker), allowed, _READS_AT_MOST)))


def part_of_store(cut: CutCost, share: float, dataset_samples: float, folder: str | None = None) -> CacheChoice:
    """Return a store of the values at `cut` for a share of the dataset; arguments as in `cache_choice`."""
    return cache_choice(cut, share * cache_choice(cut, math.inf, dataset_samples).bytes, dataset_samples, folder)


def cache_choice(cut: CutCost, room_bytes: float, dataset_samples: float, folder: str | None = None) -> CacheChoice:
    """Return a store of the values at `cut` for the whole dataset, or for the part of it that fits.

    Args:
        cut: Costs of the cut.
        room_bytes: Bytes available.
        dataset_samples: Number of samples in the dataset.
        folder: Folder of the store on disk; None keeps it in memory.

    """
    whole = math.ceil(_STORE_SLACK * cut.value_bytes * dataset_samples) + _STORE_BYTES
    size = int(min(whole, room_bytes))
    return CacheChoice(cut.after, "disk" if folder else "memory", size, size / whole, folder)


def rank(search_space: SearchSpace, inputs: ModelInputs, steady_within_seconds: float = math.inf) -> Ranking:
    """Rank the feasible configurations of the search space.

    All are predicted by their bounds, with a penalty for loaders without spare capacity. The leaders are also simulated
    with every prefetch depth, because only the order of events shows the effect of stragglers, short epochs and a
    stalled dispatch.

    Args:
        search_space: Search space.
        inputs: Inputs of the model.
        steady_within_seconds: Longest time after which a loader's rate must be steady.

    """
    points, excluded = _feasible_points(search_space, inputs)
    for each in points:
        steady_seconds = resource_bounds.seconds_until_steady(inputs, each.workers, each.in_flight, each.rates)
        each.fits[steady_seconds > steady_within_seconds] = False
    candidates = [
        candidate
        for candidate in _by_depth(_leaders(points), search_space, inputs)
        if _seconds_until_steady(inputs, candidate) <= steady_within_seconds
    ]
    return Ranking(tuple(candidates), sum(len(each.workers) for each in points), excluded)


@dataclass(frozen=True)
class Fastest:
    """The highest rate of later epochs within the limits, and the configuration to use for it.

    `samples_per_second` is that rate by the bounds, 0 if nothing fits, and `config` reaches it within one percent; None
    if nothing fits. `considered` and `excluded` are as in `Ranking`.
    """

    samples_per_second: float
    config: Config | None
    considered: int
    excluded: dict[str, int]


def fastest(search_space: SearchSpace, inputs: ModelInputs, like: Config | None = None) -> Fastest:
    """Return the highest rate of later epochs by the bounds alone, which more of a resource never lowers.

    Among configurations that are as fast, the one that differs least from `like` comes first, then the cheapest.
    """
    points, excluded = _feasible_points(search_space, inputs)
    rates = np.concatenate([each.rates for each in points])
    rates[~np.concatenate([each.fits for each in points])] = -1.0
    best = float(rates.max())
    if best < 0:
        return Fastest(0.0, None, len(rates), excluded)
    columns = [np.concatenate(column) for column in zip(*(each.costs() for each in points), strict=True)]
    if like is not None:
        columns.insert(0, np.concatenate([each.changes(like) for each in points]))
    equal = np.flatnonzero((rates >= (1 - _EQUAL) * best) & (rates >= 0))
    place = int(equal[np.lexsort([column[equal] for column in reversed(columns)])[0]])
    for each in points:
        if place < len(each.workers):
            return Fastest(best, each.config(place), len(rates), excluded)
        place -= len(each.workers)
    raise AssertionError("the place is that of a point")


def _feasible_points(search_space: SearchSpace, inputs: ModelInputs) -> tuple[list[_Points], dict[str, int]]:
    """Return all points, those over a limit marked, and how many exceed each limit."""
    points = [_points(way, search_space, inputs) for way in _ways(search_space, inputs)]
    limits = constraints.allowed(inputs)
    excluded: dict[str, int] = {}
    for each in points:
        for name, needed in constraints.needs(inputs, each.way, each.workers, each.in_flight).items():
            too_much = each.fits & (needed > limits[name])
            if too_much.any():
                excluded[name] = excluded.get(name, 0) + int(too_much.sum())
                each.fits[too_much] = False
    return points, excluded


def _seconds_until_steady(inputs: ModelInputs, candidate: Candidate) -> float:
    config, rate = candidate.config, candidate.samples_per_second
    return float(resource_bounds.seconds_until_steady(inputs, config.num_workers, config.batches_in_flight, rate))


def cost_order(config: Config) -> tuple[int, ...]:
    """Return a sort key by resource use: a store, rewritten samples, processes, threads, memory, and the rest."""
    return tuple(_costs(config).values())


def _costs(config: Config) -> dict[str, int]:
    """Return what a configuration uses, by name, in the order of `cost_order`."""
    return {
        "cache": config.cache.bytes if config.cache else 0,
        "deferred": len(config.deferred),
        "num_workers": config.num_workers,
        "fetch_threads": config.fetch_threads,
        "batches_in_flight": config.batches_in_flight,
        "persistent_workers": config.persistent_workers,
        "pin_memory": config.pin_memory,
        "worker_torch_threads": config.worker_torch_threads,
        "allocator_reuse": config.allocator_reuse,
        "in_order": not config.in_order,
    }


@dataclass(frozen=True)
class _Points:
    """One way to make samples with every worker count, prefetch depth and worker lifetime: arrays of one shape."""

    way: Config
    workers: Any
    prefetch: Any
    persistent: Any
    rates: Any
    training_rates: Any
    fits: Any

    @property
    def in_flight(self) -> Any:
        return self.workers * self.prefetch

    def costs(self) -> list[Any]:
        """Return the columns of `cost_order`."""
        columns = {name: np.full(len(self.workers), cost) for name, cost in _costs(self.way).items()}
        own = {
            "num_workers": self.workers,
            "batches_in_flight": self.in_flight,
            "persistent_workers": self.persistent,
        }
        return list((columns | own).values())

    def changes(self, like: Config) -> Any:
        """Return the number of knobs in which each point differs from `like`; of two stores, the size doesn't count."""
        way, own = _without_sizes(self.way), _without_sizes(like)
        of_points = ("num_workers", "prefetch_factor", "persistent_workers")
        names = [field.name for field in dataclasses.fields(Config) if field.name not in of_points]
        count = sum(getattr(way, name) != getattr(own, name) for name in names)
        prefetch, persistent = self.prefetch != (like.prefetch_factor or 0), self.persistent != like.persistent_workers
        return count + (self.workers != like.num_workers) + prefetch.astype(int) + persistent.astype(int)

    def config(self, place: int) -> Config:
        if not self.workers[place]:
            return self.way
        return dataclasses.replace(
            self.way,
            num_workers=int(self.workers[place]),
            prefetch_factor=int(self.prefetch[place]),
            persistent_workers=bool(self.persistent[place]),
        )


def _without_sizes(config: Config) -> Config:
    stored = config.cache and CacheChoice(config.cache.after, config.cache.tier, 0, 1.0, config.cache.folder)
    return dataclasses.replace(config, cache=stored)


def _ways(search_space: SearchSpace, inputs: ModelInputs) -> Iterator[Config]:
    """Yield every way to make samples; `num_workers` is 0 in those that make sense without workers, else 1."""
    for (threads, until), cache, deferred, reuse, pin in itertools.product(
        search_space.fetch,
        search_space.caches,
        search_space.deferrals,
        search_space.allocator_reuse,
        search_space.pin_memory,
    ):
        if not go_together(inputs, cache, deferred, threads):
            continue
        plain = Config(
            pin_memory=pin,
            fetch_threads=threads,
            fetch_until=until,
            allocator_reuse=reuse,
            cache=cache,
            deferred=deferred,
        )
        saves_nothing = inputs.allocator is None or (inputs.allocator.left_share == 1 and not deferred)
        is_same_without = reuse and saves_nothing
        if 0 in search_space.num_workers and not is_same_without:
            yield plain
        # Sending rows from a worker would copy them, so whole batches are read in the main process if it may make them.
        is_for_workers = not plain.reads_whole_batches or 0 not in search_space.num_workers
        if max(search_space.num_workers) > 0 and is_for_workers:
            started = dataclasses.replace(plain, num_workers=1, start_method=search_space.start_method)
            for torch_threads, in_order in itertools.product(search_space.worker_torch_threads, search_space.in_order):
                if plain.rewrites_samples and not in_order:
                    continue  # nothing would check the rewrites where they are used
                yield dataclasses.replace(started, worker_torch_threads=torch_threads, in_order=in_order)


def _points(way: Config, search_space: SearchSpace, inputs: ModelInputs) -> _Points:
    if way.num_workers:
        values = (
            [count for count in search_space.num_workers if count],
            search_space.prefetch_factor,
            search_space.persistent_workers,
        )
    else:
        values = [0], (0,), (False,)
    workers, prefetch, persistent = (axis.ravel() for axis in np.meshgrid(*values, indexing="ij"))
    wanted = demand(inputs, way)
    loader = resource_bounds.loader_rates(inputs, wanted, workers, persistent)
    if way.num_workers:
        rest = resource_bounds.ceilings(inputs, wanted, workers)
        # If neither has a limit, this divides by zero, and the infinite result is right.
        with np.errstate(divide="ignore"):
            rates = (loader**-_SHARPNESS + rest**-_SHARPNESS) ** (-1.0 / _SHARPNESS)
    else:
        rates = resource_bounds.loop_rates(inputs, wanted, workers, loader)
    over_a_training = resource_bounds.over_a_training(inputs, way, rates, workers)
    return _Points(way, workers, prefetch, persistent, rates, over_a_training, workers >= 0)


def _leaders(points: Sequence[_Points]) -> list[Candidate]:
    later = np.concatenate([each.rates for each in points])
    rates = np.concatenate([each.training_rates for each in points])
    fits = np.concatenate([each.fits for each in points])
    owners = np.repeat(np.arange(len(points)), [len(each.workers) for each in points])
    places = np.concatenate([np.arange(len(each.workers)) for each in points])
    columns = [np.concatenate(column) for column in zip(*(each.costs() for each in points), strict=True)]
    kept = np.flatnonzero(fits)
    if not len(kept):
        return []
    steps_behind = _steps_behind(rates[kept], rates[kept].max())
    order = kept[np.lexsort([*(column[kept] for column in reversed(columns)), steps_behind])]
    return [
        Candidate(points[owners[one]].config(int(places[one])), float(later[one]), float(rates[one]))
        for one in order[:_MOST].tolist()
    ]


def _steps_behind(rates: Any, best: float) -> Any:
    """Return the number of `_EQUAL` (1 %) steps by which each rate lies below `best`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        behind = np.where(np.asarray(rates) == best, 0.0, np.log(best / np.asarray(rates)) / _EQUAL)
    return np.floor(np.minimum(behind, 1e6))


def _by_depth(leaders: Sequence[Candidate], search_space: SearchSpace, inputs: ModelInputs) -> list[Candidate]:
    """Reorder the leaders: simulate those of the best ways with every prefetch depth and put them first."""
    ways: dict[Config, None] = {}
    for candidate in leaders:
        ways.setdefault(
            dataclasses.replace(candidate.config, prefetch_factor=None, persistent_workers=False, pin_memory=False)
        )
        if len(ways) == _SIMULATED_WAYS:
            break
    simulated: list[Candidate] = []
    for way in ways:
        simulated += _simulated(way, search_space, inputs)
    if not simulated:
        return list(leaders)
    best = max(candidate.training_samples_per_second for candidate in simulated)
    simulated.sort(
        key=lambda one: (float(_steps_behind(one.training_samples_per_second, best)), cost_order(one.config))
    )
    known = {candidate.config for candidate in simulated}
    return simulated + [candidate for candidate in leaders if candidate.config not in known]


def _simulated(way: Config, search_space: SearchSpace, inputs: ModelInputs) -> list[Candidate]:
    """Simulate one way with every prefetch depth and worker lifetime that fits."""
    found = []
    for prefetch in search_space.prefetch_factor if way.num_workers else (None,):
        config = dataclasses.replace(way, prefetch_factor=prefetch)
        if constraints.broken_limit(config, inputs) is None:
            steady = simulated_rate(inputs, config, _SIMULATED_BATCHES)
            for persistent in search_space.persistent_workers if way.num_workers else (False,):
                start = 0.0 if persistent else float(inputs.start_seconds(way.num_workers))
                lasting = dataclasses.replace(config, persistent_workers=persistent)
                rate = float(resource_bounds.amortized(steady, inputs.epoch_samples, start))
                training = float(resource_bounds.over_a_training(inputs, lasting, rate, lasting.num_workers))
                found += [
                    Candidate(dataclasses.replace(lasting, pin_memory=pin), rate, training)
                    for pin in search_space.pin_memory
                ]
    return found
