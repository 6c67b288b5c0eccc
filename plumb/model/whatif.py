"""Forecast of the best loader on another host, and of what that host would need more of.

More of a resource never lowers a forecast: a host with more may be used like the smaller one. So the forecast is the
highest bound over all configurations that fit, and the few effects are left out by which the model's bounds would fall
with more cores (`_never_worse_with_more`). On the host of the plan, the forecast is what was measured there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from plumb.core.config import CacheChoice, Config
from plumb.core.plan import LoaderResult, Prediction
from plumb.core.units import format_bytes, format_rate
from plumb.model import constraints, planner, resource_bounds
from plumb.model.inputs import CutCost, ModelInputs, RemainingCpuShare, SearchSpace, StorageBandwidth
from plumb.model.planner import Candidate, Fastest

CORES = (4, 8, 16, 32)
"""Numbers of CPUs for which `over_cores` forecasts."""

# Smallest gain for which doubling a resource is worth its price.
_WORTH_BUYING = 1.05
# A loop that reaches this share of the step's rate doesn't wait for data.
_FED = 0.95
# Share of the memory left by the script that a store may take.
_CACHE_SHARE = 0.5
# Parts of the dataset that a store may have. A host with more memory may have all stores of one with less.
_STORED_SHARES = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0625)
# Factor by which the costs of samples may be corrected so that the model gives what was measured, and its precision.
_CORRECTED_AT_MOST, _PRECISION = 64.0, 0.002
# The least that is left of CPUs that other processes use, too.
_SOME_CPU = 0.01
# Resources whose bounds do not depend on cores and workers.
_FIXED = ("storage", "main process", "transfer", "step")
# What is limited if more of a resource helps.
_LIMITED_BY = {"cores": "cpu", "memory": "memory", "disk bandwidth": "storage"}


@dataclass(frozen=True)
class AssumedHost:
    """Assumptions about a host; None keeps the measured value. Raises ValueError for a number that can't be meant.

    `disk_times` is the disk's bandwidth as a multiple of the measured one.
    """

    cpus: float | None = None
    memory_bytes: float | None = None
    step_samples_per_second: float | None = None
    disk_times: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value}: it is a finite number above 0")


@dataclass(frozen=True)
class InUse:
    """Configuration that a plan uses on its host, and the rate of the training loop that was measured with it."""

    config: Config
    samples_per_second: float


@dataclass(frozen=True)
class Purchase:
    """Twice as much of `what`, the loop's rate with it, and the configuration to use then."""

    what: str
    samples_per_second: float
    config: Config


@dataclass(frozen=True)
class HostForecast:
    """The best configuration on a host, the one resource that limits it, and the resources worth buying, best first.

    `limited_by` is a resource of `prediction.bounds`, or "memory". If `is_fed`, it is the step, and nothing is worth
    buying; otherwise it is what the first purchase is more of, or a resource of which there can't be more. `best` is
    None if nothing fits; `excluded` counts the configurations that exceeded each limit. If the best configuration
    stores samples, its rate is that of later epochs, and `filling_samples_per_second` that of the first epoch, which
    fills the store. `is_here` is True for the plan's own host. `without_store` is the reason why the plan's store is
    left out; empty if it is not.
    """

    best: Candidate | None
    prediction: Prediction | None
    is_fed: bool
    purchases: tuple[Purchase, ...]
    considered: int
    excluded: dict[str, int]
    filling_samples_per_second: float | None = None
    limited_by: str = ""
    is_here: bool = False
    without_store: str = ""


@dataclass(frozen=True)
class ForecastOfCores:
    """Forecast for a number of CPUs."""

    cpus: float
    forecast: HostForecast


def in_use(loader: LoaderResult, inputs: ModelInputs) -> InUse:
    """Return what a plan uses for a loader, and the loop's rate; by the model if only the loader's was measured."""
    config = loader.tuned.config
    if loader.end_to_end is not None:
        return InUse(config, loader.end_to_end.tuned)
    return InUse(config, resource_bounds.loop_rate(inputs, config, loader.tuned.samples_per_second))


def forecast(
    inputs: ModelInputs, search_space: SearchSpace, host: AssumedHost, used: InUse | None = None
) -> HostForecast:
    """Forecast the best configuration on `host`, and its rate with more of each resource.

    Args:
        inputs: Inputs of the model on the host where they were measured.
        search_space: Search space on that host.
        host: Host to forecast.
        used: Configuration in use where the inputs were measured, to which the model's costs are corrected; None to
            trust the model.

    """
    return _Forecaster.made_for(inputs, search_space, used).forecast(host)


def over_cores(
    inputs: ModelInputs,
    search_space: SearchSpace,
    host: AssumedHost,
    used: InUse | None = None,
    cores: Sequence[float] = CORES,
) -> tuple[ForecastOfCores, ...]:
    """Return forecasts for hosts that differ from `host` in the number of CPUs; other arguments as in `forecast`."""
    forecaster = _Forecaster.made_for(inputs, search_space, used)
    return tuple(
        ForecastOfCores(cpus, forecaster.forecast(dataclasses.replace(host, cpus=float(cpus)))) for cpus in cores
    )


@dataclass(frozen=True)
class _Forecaster:
    inputs: ModelInputs
    search_space: SearchSpace
    used: InUse | None
    _known: dict[AssumedHost, tuple[Fastest, float]] = dataclasses.field(default_factory=dict)

    @classmethod
    def made_for(cls, inputs: ModelInputs, search_space: SearchSpace, used: InUse | None) -> _Forecaster:
        forecaster = cls(_never_worse_with_more(inputs), search_space, used)
        return forecaster._corrected() if used is not None else forecaster

    def forecast(self, host: AssumedHost) -> HostForecast:
        inputs, search_space = self._on(host)
        found, rate = self._fastest(host)
        is_here = self._is_at_least(host) and self._is_at_most(host)
        config = self.used.config if is_here and self.used is not None else found.config
        if config is None:
            return HostForecast(None, None, False, (), found.considered, found.excluded)
        purchases = self._purchases(host, rate)
        step = inputs.step_samples_per_second
        # By the model, a loop may be fed that was measured to wait a little.
        is_fed = bool(step) and not purchases and max(rate, found.samples_per_second) >= _FED * (step or math.inf)
        bounds = resource_bounds.bounds(inputs, config)
        may_start_more = _may_start_more(config, inputs, search_space)
        limited_by = "step" if is_fed else _limit(bounds, purchases, rate, may_start_more)
        return HostForecast(
            Candidate(config, rate, float(resource_bounds.over_a_training(inputs, config, rate, config.num_workers))),
            _prediction(rate, bounds, limited_by),
            is_fed,
            purchases,
            found.considered,
            found.excluded,
            resource_bounds.filling_rate(inputs, config) if config.cache else None,
            limited_by,
            is_here,
            self._why_without_store(config, inputs, search_space),
        )

    def _fastest(self, host: AssumedHost) -> tuple[Fastest, float]:
        """Return the best configuration, and the loop's rate: what was measured is the least on a larger host."""
        if host in self._known:
            return self._known[host]
        inputs, search_space = self._on(host)
        found = planner.fastest(search_space, inputs, self.used.config if self.used else None)
        rate = found.samples_per_second
        if self.used is not None and self._is_at_most(host):
            rate = min(rate, self.used.samples_per_second)
        if self.used is not None and self._is_at_least(host):
            rate = max(rate, self.used.samples_per_second)
        self._known[host] = found, rate
        return found, rate

    def _purchases(self, host: AssumedHost, now: float) -> tuple[Purchase, ...]:
        limits = self._on(host)[0].limits
        offers = {"cores": {"cpus": 2 * limits.cpus}}
        if self._lacks_memory(host):
            offers["memory"] = {"memory_bytes": 2 * limits.memory_bytes}
        if self.inputs.storage is not None:
            offers["disk bandwidth"] = {"disk_times": 2 * (host.disk_times or 1.0)}
        bought = []
        for what, more in offers.items():
            if all(map(math.isfinite, more.values())):
                found, rate = self._fastest(dataclasses.replace(host, **more))
                if found.config is not None and rate >= _WORTH_BUYING * now:
                    bought.append(Purchase(what, rate, found.config))
        return tuple(sorted(bought, key=lambda purchase: -purchase.samples_per_second))

    def _lacks_memory(self, host: AssumedHost) -> bool:
        """Return whether more memory allows any configuration that this host does not."""
        if self._fastest(host)[0].excluded.keys() & {"memory", "shared memory"}:
            return True
        inputs, search_space = self._on(host)
        endless = dataclasses.replace(inputs.limits, memory_bytes=math.inf, shm_bytes=math.inf)
        every_store = _with_stores(dataclasses.replace(inputs, limits=endless), self.search_space).caches
        return every_store != search_space.caches

    def _why_without_store(self, config: Config, inputs: ModelInputs, search_space: SearchSpace) -> str:
        """Return why the store of the configuration in use is not in `config`; empty if it is."""
        stored = self.used.config.cache if self.used else None
        if stored is None or (config.cache is not None and config.cache.after == stored.after):
            return ""
        stores = tuple(each for each in search_space.caches if each is not None and each.after == stored.after)
        with_store = planner.fastest(dataclasses.replace(search_space, caches=stores), inputs) if stores else None
        if with_store is None or with_store.config is None:
            free = format_bytes(_room(inputs, stored.folder))
            return f"of its {format_bytes(stored.bytes)}, {free} are free for stores"
        return f"with it the loop would reach {format_rate(with_store.samples_per_second)}"

    def _corrected(self) -> _Forecaster:
        """Return the forecaster whose costs give, on the host where they were measured, the rate that was measured.

        Which way to make samples is best is taken not to depend on the correction.
        """
        assert self.used is not None
        found = self._fastest(AssumedHost())[0].config
        if found is None:
            return self
        way = dataclasses.replace(
            self._on(AssumedHost())[1],
            fetch=((found.fetch_threads, found.fetch_until),),
            caches=(found.cache,),
            deferrals=(found.deferred,),
            allocator_reuse=(found.allocator_reuse,),
        )
        low, high = 1 / _CORRECTED_AT_MOST, _CORRECTED_AT_MOST
        while high / low > 1 + _PRECISION:
            factor = math.sqrt(low * high)
            if (
                planner.fastest(way, self.inputs.with_costs_times(factor)).samples_per_second
                < self.used.samples_per_second
            ):
                high = factor
            else:
                low = factor
        return _Forecaster(self.inputs.with_costs_times(low), self.search_space, self.used)

    def _on(self, host: AssumedHost) -> tuple[ModelInputs, SearchSpace]:
        return _on(self.inputs, self.search_space, host)

    def _is_at_least(self, host: AssumedHost) -> bool:
        return all(value is None or value >= own for value, own in self._beside_own(host))

    def _is_at_most(self, host: AssumedHost) -> bool:
        return all(value is None or value <= own for value, own in self._beside_own(host))

    def _beside_own(self, host: AssumedHost) -> list[tuple[float | None, float]]:
        limits, step = self.inputs.limits, self.inputs.step_samples_per_second
        return [
            (host.cpus, limits.cpus),
            (host.memory_bytes, limits.memory_bytes),
            (host.step_samples_per_second, step or math.inf),
            (host.disk_times, 1.0),
        ]


def _may_start_more(config: Config, inputs: ModelInputs, search_space: SearchSpace) -> bool:
    more = [count for count in search_space.num_workers if count > config.num_workers]
    prefetch = config.prefetch_factor or min(search_space.prefetch_factor)
    next_one = dataclasses.replace(config, num_workers=min(more, default=0), prefetch_factor=prefetch)
    return bool(more) and constraints.broken_limit(next_one, inputs) is None


def _limit(bounds: dict[str, float], purchases: tuple[Purchase, ...], rate: float, may_start_more: bool) -> str:
    """Return the resource that limits a loop that waits: what helps most, or else what can't be had twice."""
    if purchases:
        return _LIMITED_BY[purchases[0].what]
    if bounds.get("step", math.inf) <= _WORTH_BUYING * rate:
        # The loop takes batches over, or makes them, between two steps.
        return "main process"
    others = ("cpu", "storage", "step", *(["workers"] if may_start_more else []))
    fixed = {name: bound for name, bound in bounds.items() if name not in others} or bounds
    return min(fixed, key=lambda name: fixed[name])


def _prediction(rate: float, bounds: dict[str, float], limited_by: str) -> Prediction:
    """Return the prediction of a loop's rate, whose bottleneck is the resource that was found to limit it.

    The next bound is one that more cores and workers don't raise.
    """
    later = {name: bounds[name] for name in _FIXED if name != limited_by and rate < bounds.get(name, 0.0)}
    then = min(later, key=lambda name: later[name]) if later else None
    used = {name: min(1.0, rate / bound) for name, bound in bounds.items() if bound > 0}
    return Prediction(rate, limited_by, used, bounds, then)


def _never_worse_with_more(inputs: ModelInputs) -> ModelInputs:
    """Return the inputs without effects by which a bound falls with more cores.

    Those are samples that cost less if all cores are busy, and threads that contend for the interpreter's lock only if
    they run on several cores.
    """
    calibration = dataclasses.replace(inputs.calibration, crowding=max(0.0, inputs.calibration.crowding))
    threads = tuple(
        dataclasses.replace(each, time_factor=min(each.time_factor, each.crowded_time_factor))
        for each in inputs.threads
    )
    return dataclasses.replace(inputs, calibration=calibration, threads=threads)


def _on(inputs: ModelInputs, search_space: SearchSpace, host: AssumedHost) -> tuple[ModelInputs, SearchSpace]:
    """Return the model inputs and search space on another host, with that host's worker counts and stores."""
    limits = inputs.limits
    cpus, competition = host.cpus or limits.cpus, inputs.competition
    if host.cpus and competition:
        # Other processes use as much CPU there, of a number of CPUs that differs by as many as the loop's.
        competition = dataclasses.replace(competition, cpus=max(_SOME_CPU, competition.cpus + cpus - limits.cpus))
    memory = host.memory_bytes or limits.memory_bytes
    # Shared memory is a part of a host's memory, and grows with it.
    grown = memory / limits.memory_bytes if math.isfinite(limits.memory_bytes) else 1.0
    limits = dataclasses.replace(limits, cpus=cpus, memory_bytes=memory, shm_bytes=limits.shm_bytes * grown)
    step, storage = inputs.step_samples_per_second, inputs.storage
    # A faster step keeps no more cores busy than the measured one did.
    step_cpu_seconds = inputs.step_cpu_seconds
    if step and host.step_samples_per_second:
        step_cpu_seconds *= min(1.0, step / host.step_samples_per_second)
    if storage is not None and host.disk_times:
        faster = tuple(host.disk_times * rate for rate in storage.bytes_per_second)
        storage = StorageBandwidth(storage.outstanding, faster)
    inputs = dataclasses.replace(
        inputs,
        limits=limits,
        competition=competition,
        step_samples_per_second=host.step_samples_per_second or step,
        step_cpu_seconds=step_cpu_seconds,
        storage=storage,
    )
    counts = search_space.num_workers
    # Streams have the counts that were compared, which are no range as a rule.
    if len(counts) > 1 and counts == tuple(range(len(counts))):
        more = planner.worker_counts(inputs.cost_in_worker, limits, inputs.step_samples_per_second)
        counts = tuple(sorted({*counts, *more}))
    return inputs, _with_stores(inputs, dataclasses.replace(search_space, num_workers=counts))


def _with_stores(inputs: ModelInputs, search_space: SearchSpace) -> SearchSpace:
    """Return the search space with the stores that fit into the host's memory and disk, in place of those it has."""
    stores = [
        store
        for cut in inputs.cuts
        for folder in dict.fromkeys(cache.folder for cache in search_space.caches if cache)
        for store in _stores(cut, folder, inputs, search_space)
    ]
    caches = (*(None for _ in range(None in search_space.caches or not stores)), *stores)
    return dataclasses.replace(search_space, caches=caches)


def _stores(cut: CutCost, folder: str | None, inputs: ModelInputs, search_space: SearchSpace) -> list[CacheChoice]:
    """Return the stores at `cut` that fit, the largest first, without those that are best for no configuration."""
    samples = inputs.dataset_samples
    if not samples:
        return []
    each = (planner.part_of_store(cut, share, samples, folder) for share in _STORED_SHARES)
    fitting = [store for store in each if store.bytes <= _room(inputs, folder)]
    saves_cpu_only = cut.wait_share == 0 and inputs.read_bytes == 0 and len(search_space.fetch) == 1
    is_largest_best = None in search_space.caches and (saves_cpu_only or _saves_all(cut, inputs))
    return fitting[:1] if is_largest_best else fitting


def _saves_all(cut: CutCost, inputs: ModelInputs) -> bool:
    """Return whether a sample from the store takes no more of anything than one that is made."""
    made = [1.0, *(share for each in inputs.deferrals for share in _shares(each.left))]
    stored = [*_shares(cut.left), *(_shares(cut.left_deferred) if cut.left_deferred else ())]
    return max(stored) <= min(made)


def _shares(left: RemainingCpuShare) -> tuple[float, ...]:
    return left.plainly, left.reusing, *(_shares(left.alone) if left.alone else ())


def _room(inputs: ModelInputs, folder: str | None) -> float:
    limits = inputs.limits
    if folder is not None:
        return limits.disk_bytes
    return max(0.0, min(limits.shm_bytes, limits.memory_bytes - inputs.footprint.main_bytes) * _CACHE_SHARE)
