"""Ordinary datasets, each as its user would have written it, and each bound by something else."""

from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.pipelines import (
    augmented,
    bandwidth,
    decoded,
    large_batches,
    large_photos,
    padding,
    photos,
    random_cost,
    shards,
    spectrograms,
    stragglers,
    tiny,
    waits,
)
from analysis.pipelines.pipeline import DATA, Pipeline

_MAKERS: dict[str, Callable[[Path], Pipeline]] = {
    module.__name__.rpartition(".")[2]: module.make
    for module in (
        photos,
        waits,
        bandwidth,
        large_batches,
        tiny,
        random_cost,
        stragglers,
        shards,
        padding,
        decoded,
        spectrograms,
        large_photos,
        augmented,
    )
}
NAMES = tuple(_MAKERS)


def made(names: Sequence[str]) -> list[Pipeline]:
    """The pipelines of these names; their files are written where they are missing."""
    return [_MAKERS[name](DATA) for name in names]
