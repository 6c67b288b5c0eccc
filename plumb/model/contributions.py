"""Contribution of each rewrite in a configuration to its rate."""

from __future__ import annotations

from dataclasses import replace

from plumb.core.config import Config
from plumb.model.inputs import ModelInputs
from plumb.model.resource_bounds import loader_rate


def rates_without_each(inputs: ModelInputs, config: Config) -> dict[str, float]:
    """Predict the loader's samples per second without each rewrite that `config` has, by the rewrite's name."""
    without = {
        "stored samples": replace(config, cache=None),
        "loading threads": replace(config, fetch_threads=1, fetch_until=None),
        "whole batches" if config.reads_whole_batches else "computing on whole batches": replace(config, deferred=()),
        "using batch memory again": replace(config, allocator_reuse=False),
    }
    return {name: loader_rate(inputs, other) for name, other in without.items() if other != config}
