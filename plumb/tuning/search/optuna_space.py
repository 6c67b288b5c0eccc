"""A loader's search space as Optuna's distributions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from plumb.core.config import CacheChoice, Config
from plumb.model import constraints
from plumb.model.demand import go_together
from plumb.model.inputs import ModelInputs, SearchSpace

_NONE = "none"


@dataclass(frozen=True)
class Space:
    """All configurations that a freedom allows; values that are not numbers are represented by readable labels."""

    freedom: SearchSpace
    situation: ModelInputs

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the distribution of each parameter."""
        freedom = self.freedom
        return {
            "num_workers": _counts(freedom.num_workers),
            "prefetch_factor": CategoricalDistribution(freedom.prefetch_factor),
            "persistent_workers": CategoricalDistribution(freedom.persistent_workers),
            "pin_memory": CategoricalDistribution(freedom.pin_memory),
            "worker_torch_threads": CategoricalDistribution(freedom.worker_torch_threads),
            "in_order": CategoricalDistribution(freedom.in_order),
            "allocator_reuse": CategoricalDistribution(freedom.allocator_reuse),
            "fetch": CategoricalDistribution(tuple(map(_fetch_label, freedom.fetch))),
            "cache": CategoricalDistribution(tuple(map(_cache_label, freedom.caches))),
            "deferred": CategoricalDistribution(tuple(map(_deferred_label, freedom.deferrals))),
        }

    def parameters(self, config: Config) -> dict[str, Any]:
        """Return the point of `config`; parameters without a meaning if there are no workers get a fixed value."""
        freedom, workers = self.freedom, config.num_workers > 0
        return {
            "num_workers": config.num_workers,
            "prefetch_factor": config.prefetch_factor or freedom.prefetch_factor[0],
            "persistent_workers": config.persistent_workers if workers else freedom.persistent_workers[0],
            "pin_memory": config.pin_memory,
            "worker_torch_threads": config.worker_torch_threads if workers else freedom.worker_torch_threads[0],
            "in_order": config.in_order if workers else freedom.in_order[0],
            "allocator_reuse": config.allocator_reuse,
            "fetch": _fetch_label((config.fetch_threads, config.fetch_until)),
            "cache": _cache_label(config.cache),
            "deferred": _deferred_label(config.deferred),
        }

    def holds(self, config: Config) -> bool:
        """Return whether `config` has a point in this space."""
        if config.num_workers and config.start_method != self.freedom.start_method:
            return False
        point = self.parameters(config)
        return all(_admits(distribution, point[name]) for name, distribution in self.distributions().items())

    def config(self, parameters: dict[str, Any]) -> Config:
        """Return the configuration at a point. Raise KeyError if a label is not one of this space's."""
        freedom = self.freedom
        fetch_threads, fetch_until = _labelled(freedom.fetch, _fetch_label)[parameters["fetch"]]
        plain = {
            "pin_memory": parameters["pin_memory"],
            "allocator_reuse": parameters["allocator_reuse"],
            "fetch_threads": fetch_threads,
            "fetch_until": fetch_until,
            "cache": _labelled(freedom.caches, _cache_label)[parameters["cache"]],
            "deferred": _labelled(freedom.deferrals, _deferred_label)[parameters["deferred"]],
        }
        if parameters["num_workers"] == 0:
            return Config(**plain)
        workers = ("num_workers", "prefetch_factor", "persistent_workers", "worker_torch_threads", "in_order")
        return Config(**plain, **{name: parameters[name] for name in workers}, start_method=freedom.start_method)

    def excess(self, config: Config) -> list[float]:
        """Return the share by which `config` exceeds each limit, negative within it, as Optuna's constraints."""
        allowed = constraints.allowed(self.situation)
        needed = constraints.needs(self.situation, config, config.num_workers, config.batches_in_flight)
        shares = [
            float(needed[name]) / allowed[name] - 1.0 if allowed[name] else float(needed[name]) for name in allowed
        ]
        return [*shares, 1.0 if self.contradicts(config) else -1.0]

    def contradicts(self, config: Config) -> bool:
        """Return whether parts of `config` exclude each other.

        That is so if it stores values made after an operator that it defers, or reads whole batches with workers.
        """
        if config.reads_whole_batches and config.num_workers and 0 in self.freedom.num_workers:
            return True
        return not go_together(self.situation, config.cache, config.deferred, config.fetch_threads)


def _counts(values: tuple[int, ...]) -> BaseDistribution:
    """Return the distribution of worker counts: a range, or categories if some counts in the range are excluded."""
    least, most = min(values), max(values)
    if set(values) == set(range(least, most + 1)):
        return IntDistribution(least, most)
    return CategoricalDistribution(values)


def _admits(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, IntDistribution):
        return bool(distribution.low <= value <= distribution.high)
    return isinstance(distribution, CategoricalDistribution) and value in distribution.choices


def _labelled(values: Iterable[Any], label: Any) -> dict[str, Any]:
    return {label(value): value for value in values}


def _fetch_label(fetch: tuple[int, str | None]) -> str:
    threads, until = fetch
    return f"{threads} threads" + (f" up to {until}" if until is not None else "")


def _cache_label(cache: CacheChoice | None) -> str:
    return f"{cache.tier} after {cache.after}" if cache else _NONE


def _deferred_label(operators: tuple[str, ...]) -> str:
    return ", ".join(operators) or _NONE
