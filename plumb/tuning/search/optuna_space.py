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
    """All configurations that a search space allows; values that are not numbers are represented by readable labels."""

    search_space: SearchSpace
    inputs: ModelInputs

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the distribution of each parameter."""
        search_space = self.search_space
        return {
            "num_workers": _counts(search_space.num_workers),
            "prefetch_factor": CategoricalDistribution(search_space.prefetch_factor),
            "persistent_workers": CategoricalDistribution(search_space.persistent_workers),
            "pin_memory": CategoricalDistribution(search_space.pin_memory),
            "worker_torch_threads": CategoricalDistribution(search_space.worker_torch_threads),
            "in_order": CategoricalDistribution(search_space.in_order),
            "allocator_reuse": CategoricalDistribution(search_space.allocator_reuse),
            "fetch": CategoricalDistribution(tuple(map(_fetch_label, search_space.fetch))),
            "cache": CategoricalDistribution(tuple(map(_cache_label, search_space.caches))),
            "deferred": CategoricalDistribution(tuple(map(_deferred_label, search_space.deferrals))),
        }

    def parameters(self, config: Config) -> dict[str, Any]:
        """Return the point of `config`; parameters without a meaning if there are no workers get a fixed value."""
        search_space, workers = self.search_space, config.num_workers > 0
        return {
            "num_workers": config.num_workers,
            "prefetch_factor": config.prefetch_factor or search_space.prefetch_factor[0],
            "persistent_workers": config.persistent_workers if workers else search_space.persistent_workers[0],
            "pin_memory": config.pin_memory,
            "worker_torch_threads": config.worker_torch_threads if workers else search_space.worker_torch_threads[0],
            "in_order": config.in_order if workers else search_space.in_order[0],
            "allocator_reuse": config.allocator_reuse,
            "fetch": _fetch_label((config.fetch_threads, config.fetch_until)),
            "cache": _cache_label(config.cache),
            "deferred": _deferred_label(config.deferred),
        }

    def holds(self, config: Config) -> bool:
        """Return whether `config` has a point in this space."""
        if config.num_workers and config.start_method != self.search_space.start_method:
            return False
        point = self.parameters(config)
        return all(_admits(distribution, point[name]) for name, distribution in self.distributions().items())

    def config(self, parameters: dict[str, Any]) -> Config:
        """Return the configuration at a point. Raise KeyError if a label is not one of this space's."""
        search_space = self.search_space
        fetch_threads, fetch_until = _labelled(search_space.fetch, _fetch_label)[parameters["fetch"]]
        plain = {
            "pin_memory": parameters["pin_memory"],
            "allocator_reuse": parameters["allocator_reuse"],
            "fetch_threads": fetch_threads,
            "fetch_until": fetch_until,
            "cache": _labelled(search_space.caches, _cache_label)[parameters["cache"]],
            "deferred": _labelled(search_space.deferrals, _deferred_label)[parameters["deferred"]],
        }
        if parameters["num_workers"] == 0:
            return Config(**plain)
        workers = ("num_workers", "prefetch_factor", "persistent_workers", "worker_torch_threads", "in_order")
        return Config(**plain, **{name: parameters[name] for name in workers}, start_method=search_space.start_method)

    def excess(self, config: Config) -> list[float]:
        """Return the share by which `config` exceeds each limit, negative within it, as Optuna's constraints."""
        allowed = constraints.allowed(self.inputs)
        needed = constraints.needs(self.inputs, config, config.num_workers, config.batches_in_flight)
        shares = [
            float(needed[name]) / allowed[name] - 1.0 if allowed[name] else float(needed[name]) for name in allowed
        ]
        return [*shares, 1.0 if self.contradicts(config) else -1.0]

    def contradicts(self, config: Config) -> bool:
        """Return whether parts of `config` exclude each other.

        That is so if it stores values made after an operator that it defers, reads whole batches with workers, or
        rewrites samples that come in any order, so that they can't be checked where they are used.
        """
        if config.rewrites_samples and not config.in_order:
            return True
        if config.reads_whole_batches and config.num_workers and 0 in self.search_space.num_workers:
            return True
        return not go_together(self.inputs, config.cache, config.deferred, config.fetch_threads)


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
