"""Ordinary datasets, each as its user would have written it, and each bound by something else."""

import importlib
from collections.abc import Sequence

from analysis.pipelines.pipeline import DATA, Pipeline

NAMES = (
    "photos",
    "waits",
    "bandwidth",
    "large_batches",
    "tiny",
    "random_cost",
    "stragglers",
    "shards",
    "padding",
    "decoded",
    "spectrograms",
    "large_photos",
    "augmented",
)


def made(names: Sequence[str]) -> list[Pipeline]:
    """Return the pipelines of these modules; write their files if they are missing.

    Each is imported only here, as each needs a library of its own.
    """
    return [importlib.import_module(f"analysis.pipelines.{name}").make(DATA) for name in names]
