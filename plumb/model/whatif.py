"""Forecast of the best loader on another host, and of what that host would need more of."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from plumb.core.plan import Prediction
from plumb.model import planner, resource_bounds
from plumb.model.inputs import ModelInputs, SearchSpace, StorageBandwidth
from plumb.model.planner import Candidate

# Smallest gain for which doubling a resource is worth its price.
_WORTH_BUYING = 1.05
# A loop that reaches this share of the step's rate doesn't wait for data.
_FED = 0.95
# Share of the memory left by the script that a store may take.
_CACHE_SHARE = 0.5


@dataclass(frozen=True)
class AssumedHost:
    """Assumptions about a host; None keeps the measured value. Raises ValueError for what is no number from 0."""

    cpus: float | None = None
    memory_bytes: float | None = None
    step_samples_per_second: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value >= 0:
                raise ValueError(f"{name}={value}: it is a number from 0")


@dataclass(frozen=True)
class Purchase:
    """Twice as much of `what`, and the loop's rate with it."""

    what: str
    samples_per_second: float


@dataclass(frozen=True)
class HostForecast:
    """The best configuration on a host, its bottleneck, and the resources worth buying, the best first.

    `best` is None if nothing fits; `excluded` counts the configurations that exceeded each limit. If the best
    configuration stores samples, its rate is that of later epochs, and `filling_samples_per_second` that of the first
    epoch, which fills the store.
    """

    best: Candidate | None
    prediction: Prediction | None
    is_fed: bool
    purchases: tuple[Purchase, ...]
    considered: int
    excluded: dict[str, int]
    filling_samples_per_second: float | None = None


def forecast(inputs: ModelInputs, search_space: SearchSpace, host: AssumedHost) -> HostForecast:
    """Forecast the best configuration on `host`, and its rate with more of each resource."""
    inputs, search_space = _on(inputs, search_space, host)
    ranking = planner.rank(search_space, inputs)
    if not ranking.best:
        return HostForecast(None, None, False, (), ranking.considered, ranking.excluded)
    best = ranking.best[0]
    is_fed = best.samples_per_second >= _FED * resource_bounds.fed_rate(inputs)
    bought = () if is_fed else _purchases(inputs, search_space, best.samples_per_second)
    prediction = resource_bounds.predict(inputs, best.config)
    filling = resource_bounds.filling_rate(inputs, best.config) if best.config.cache else None
    return HostForecast(best, prediction, is_fed, bought, ranking.considered, ranking.excluded, filling)


def _purchases(inputs: ModelInputs, search_space: SearchSpace, now: float) -> tuple[Purchase, ...]:
    limits = inputs.limits
    offers = [
        ("cores", AssumedHost(cpus=2 * limits.cpus)),
        ("memory", AssumedHost(memory_bytes=2 * limits.memory_bytes)),
    ]
    found = [Purchase(what, _best_rate(*_on(inputs, search_space, host))) for what, host in offers if _is_finite(host)]
    if inputs.storage is not None:
        storage = inputs.storage
        faster = StorageBandwidth(storage.outstanding, tuple(2 * rate for rate in storage.bytes_per_second))
        found.append(Purchase("disk bandwidth", _best_rate(dataclasses.replace(inputs, storage=faster), search_space)))
    worth = [purchase for purchase in found if purchase.samples_per_second >= _WORTH_BUYING * now]
    return tuple(sorted(worth, key=lambda purchase: -purchase.samples_per_second))


def _best_rate(inputs: ModelInputs, search_space: SearchSpace) -> float:
    best = planner.rank(search_space, inputs).best
    return best[0].samples_per_second if best else 0.0


def _is_finite(host: AssumedHost) -> bool:
    return all(math.isfinite(value) for value in (host.cpus, host.memory_bytes) if value is not None)


def _on(inputs: ModelInputs, search_space: SearchSpace, host: AssumedHost) -> tuple[ModelInputs, SearchSpace]:
    """Return the model inputs and search space on another host, with that host's worker counts and stores."""
    limits = inputs.limits
    cpus, competition = host.cpus or limits.cpus, inputs.competition
    if host.cpus and competition:
        # Other processes use as much CPU there, of a number of CPUs that differs by as many as the loop's.
        competition = dataclasses.replace(competition, cpus=competition.cpus + cpus - limits.cpus)
    memory = host.memory_bytes or limits.memory_bytes
    # Shared memory is a part of a host's memory, and grows with it.
    grown = memory / limits.memory_bytes if math.isfinite(limits.memory_bytes) else 1.0
    limits = dataclasses.replace(limits, cpus=cpus, memory_bytes=memory, shm_bytes=limits.shm_bytes * grown)
    inputs = dataclasses.replace(
        inputs,
        limits=limits,
        competition=competition,
        step_samples_per_second=host.step_samples_per_second or inputs.step_samples_per_second,
    )
    counts = search_space.num_workers
    if len(counts) > 1:
        counts = planner.worker_counts(inputs.cost_in_worker, limits, inputs.step_samples_per_second)
    stores = [
        planner.cache_choice(cut, _room(inputs, folder), inputs.dataset_samples, folder)
        for cut in inputs.cuts
        for folder in dict.fromkeys(cache.folder for cache in search_space.caches if cache)
        if inputs.dataset_samples
    ]
    caches = (*(None for _ in range(None in search_space.caches)), *stores) or search_space.caches
    return inputs, dataclasses.replace(search_space, num_workers=counts, caches=caches)


def _room(inputs: ModelInputs, folder: str | None) -> float:
    limits = inputs.limits
    if folder is not None:
        return limits.disk_bytes
    return max(0.0, min(limits.shm_bytes, limits.memory_bytes - inputs.footprint.main_bytes) * _CACHE_SHARE)
