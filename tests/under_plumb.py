"""A pytest plugin that puts every map-style DataLoader of other people's tests onto plumb's own epochs.

    PYTHONPATH=tests python -m pytest -p under_plumb PATH_OF_THEIR_TESTS

Loaders keep what the test gave them; their epochs are read by plumb's engine, with all its guards, on the configuration
that `PLUMB_UNDER` names: `own` (the test's own), `reused` (the same in memory that is used again, where there are
workers) or `workers` (two workers that persist, where the test has none).
"""

import dataclasses
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.core.plan import LoaderResult, Measured, Prediction
from plumb.instrument.call_site import Site
from plumb.runtime.loader import current_config
from plumb.runtime.planned_loader import PlannedLoader
from plumb.script import interception

RATE, INTERVAL = 100.0, (90.0, 110.0)


def wanted(own: Config) -> Config:
    """The configuration that a loader is to run on."""
    way = os.environ.get("PLUMB_UNDER", "own")
    if way == "workers" and not own.num_workers:
        return dataclasses.replace(own, num_workers=2, prefetch_factor=2, persistent_workers=True)
    return dataclasses.replace(own, allocator_reuse=True) if way == "reused" and own.num_workers else own


class EveryLoaderPlanned:
    """An `interception.Handler` that has a plan for every loader."""

    def __init__(self) -> None:
        self._planned: dict[int, tuple[Config, PlannedLoader]] = {}

    def constructing(self, site: Site, arguments: dict[str, Any]) -> dict[str, Any]:
        return arguments

    def constructed(self, loader: DataLoader, site: Site) -> None:
        pass

    def read_by_dataset(self, loader: DataLoader) -> None:
        pass

    def iterating(self, loader: DataLoader, start: Callable[[], Iterator[Any]], plain_loop: bool) -> Iterator[Any]:
        own = current_config(loader)
        known, planned = self._planned.get(id(loader), (None, None))
        if planned is None or known != own:
            entry = LoaderResult(
                "loader",
                "test.py:1",
                type(loader.dataset).__name__,
                loader.batch_size,
                Measured(own, RATE, INTERVAL),
                Measured(wanted(own), RATE, INTERVAL),
                Prediction(RATE, "cpu", {"cpu": 1.0}),
            )
            planned = PlannedLoader(loader, entry, own)
            if known is None:
                weakref.finalize(loader, self._planned.pop, id(loader), None).atexit = False
            self._planned[id(loader)] = own, planned
        return planned.start_unseen(loader, start, lambda text: print(f"plumb: {text}", file=sys.stderr))


def pytest_configure() -> None:
    interception.install(EveryLoaderPlanned())
