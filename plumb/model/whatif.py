"""What a loader would do on another host, and what that host would have to have more of."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from plumb.model import operational, planner
from plumb.model.planner import Candidate
from plumb.model.situation import Freedom, Situation, StorageBandwidth
from plumb.plan import Prediction

# Twice as much of something is worth its price from this gain on.
_WORTH_BUYING = 1.05
# A loop that reaches this share of what the step allows is fed.
_FED = 0.95
# A store in memory may have so much of what the script itself leaves.
_CACHE_SHARE = 0.5


@dataclass(frozen=True)
class Host:
    """What is assumed of a host; None leaves it as it was measured."""

    cpus: float | None = None
    memory_bytes: float | None = None
    step_samples_per_second: float | None = None


@dataclass(frozen=True)
class Purchase:
    """Twice as much of `what`, and the rate of the loop that it would give."""

    what: str
    samples_per_second: float


@dataclass(frozen=True)
class Forecast:
    """The best configuration on a host, why it goes no faster, and what is worth buying, the best first.

    `best` is None where nothing fits; `excluded` says of how many configurations each limit was broken. Where the best
    stores samples, its rate is that of later epochs, and `filling_samples_per_second` that of the first, which stores
    them.
    """

    best: Candidate | None
    prediction: Prediction | None
    is_fed: bool
    purchases: tuple[Purchase, ...]
    considered: int
    excluded: dict[str, int]
    filling_samples_per_second: float | None = None


def forecast(situation: Situation, freedom: Freedom, host: Host) -> Forecast:
    """The planner's answer for `host`."""
    situation, freedom = _on(situation, freedom, host)
    ranking = planner.rank(freedom, situation)
    if not ranking.best:
        return Forecast(None, None, False, (), ranking.considered, ranking.excluded)
    best = ranking.best[0]
    is_fed = best.samples_per_second >= _FED * operational.fed_rate(situation)
    bought = () if is_fed else _purchases(situation, freedom, best.samples_per_second)
    prediction = operational.predict(situation, best.config)
    filling = operational.filling_rate(situation, best.config) if best.config.cache else None
    return Forecast(best, prediction, is_fed, bought, ranking.considered, ranking.excluded, filling)


def _purchases(situation: Situation, freedom: Freedom, now: float) -> tuple[Purchase, ...]:
    limits = situation.limits
    offers = [("cores", Host(cpus=2 * limits.cpus)), ("memory", Host(memory_bytes=2 * limits.memory_bytes))]
    found = [Purchase(what, _best_rate(*_on(situation, freedom, host))) for what, host in offers if _is_finite(host)]
    if situation.storage is not None:
        storage = situation.storage
        faster = StorageBandwidth(storage.outstanding, tuple(2 * rate for rate in storage.bytes_per_second))
        found.append(Purchase("disk bandwidth", _best_rate(dataclasses.replace(situation, storage=faster), freedom)))
    worth = [purchase for purchase in found if purchase.samples_per_second >= _WORTH_BUYING * now]
    return tuple(sorted(worth, key=lambda purchase: -purchase.samples_per_second))


def _best_rate(situation: Situation, freedom: Freedom) -> float:
    best = planner.rank(freedom, situation).best
    return best[0].samples_per_second if best else 0.0


def _is_finite(host: Host) -> bool:
    return all(math.isfinite(value) for value in (host.cpus, host.memory_bytes) if value is not None)


def _on(situation: Situation, freedom: Freedom, host: Host) -> tuple[Situation, Freedom]:
    """The situation on another host, and what may be chosen there: its worker counts and its stores."""
    limits = situation.limits
    cpus, competition = host.cpus or limits.cpus, situation.competition
    if host.cpus and competition:
        # The others are the same there, and have as many more CPUs.
        competition = dataclasses.replace(competition, cpus=competition.cpus + cpus - limits.cpus)
    memory = host.memory_bytes or limits.memory_bytes
    # A host's shared memory is a part of its memory, and grows with it.
    grown = memory / limits.memory_bytes if math.isfinite(limits.memory_bytes) else 1.0
    limits = dataclasses.replace(limits, cpus=cpus, memory_bytes=memory, shm_bytes=limits.shm_bytes * grown)
    situation = dataclasses.replace(
        situation,
        limits=limits,
        competition=competition,
        step_samples_per_second=host.step_samples_per_second or situation.step_samples_per_second,
    )
    counts = freedom.num_workers
    if len(counts) > 1:
        counts = planner.worker_counts(situation.cost_in_worker, limits, situation.step_samples_per_second)
    stores = [
        planner.cache_choice(cut, _room(situation, folder), situation.dataset_samples, folder)
        for cut in situation.cuts
        for folder in dict.fromkeys(cache.folder for cache in freedom.caches if cache)
        if situation.dataset_samples
    ]
    caches = (*(None for _ in range(None in freedom.caches)), *stores) or freedom.caches
    return situation, dataclasses.replace(freedom, num_workers=counts, caches=caches)


def _room(situation: Situation, folder: str | None) -> float:
    limits = situation.limits
    if folder is not None:
        return limits.disk_bytes
    return max(0.0, min(limits.shm_bytes, limits.memory_bytes - situation.footprint.main_bytes) * _CACHE_SHARE)
