"""The ways in which a loader of the user's comes to run on another configuration, each with a plan made by hand."""

import dataclasses

import pytest

import plumb
from plumb.api import self_tuning
from plumb.api.decorator import MarkedDatasets
from plumb.core.plan import LoaderResult, Measured, Plan, Prediction
from plumb.instrument.call_site import Site
from plumb.instrument.torch_loader import DataLoader
from plumb.runtime.loader import NO_REWRITES, current_config
from plumb.runtime.planned_loader import PlannedLoader
from plumb.script.loader_registry import Registry
from plumb.script.plan_handler import PlanHandler
from plumb.tuning.dataset_settings import Settings, mark
from plumb.tuning.live import live_iterator
from tests.parts.live_parts import follow

_RATE = (90.0, 110.0)
_SITE = Site(__file__, 1, "loader")


def entry_for(loader, config, rewrites=NO_REWRITES, identity=None):
    """An entry of a plan for `loader`, as a tuning would have made it if it had chosen `config`."""
    return LoaderResult(
        "loader",
        str(_SITE),
        type(loader.dataset).__name__,
        loader.batch_size,
        Measured(current_config(loader), 100.0, _RATE),
        Measured(config, 100.0, _RATE),
        Prediction(100.0, "cpu", {}),
        rewrites=rewrites,
        identity=identity,
    )


def _by_itself(loader, config, rewrites, said, monkeypatch):
    planned = PlannedLoader(loader, entry_for(loader, config, rewrites), current_config(loader))
    return lambda: planned.start_unseen(loader, lambda: iter(loader), said.append)


def _by_plan(loader, config, rewrites, said, monkeypatch):
    """As `plumb run` does it, and each rank that a script starts."""
    registry = Registry()
    registry.add(loader, _SITE)
    known = registry.iterated(loader)
    identity = dataclasses.replace(known.identity, facts=known.facts)
    entry = entry_for(loader, config, rewrites, identity)
    handler = PlanHandler(Plan("train.py", {}, 1.0, 1.0, (entry,)))
    monkeypatch.setattr(handler, "_say", said.append)
    handler.constructed(loader, _SITE)
    return lambda: handler.iterating(loader, lambda: DataLoader.__iter__(loader), True)


def _by_mark(loader, config, rewrites, said, monkeypatch):
    """As `@plumb.tuned` does it."""
    assert mark(loader.dataset, Settings())
    entry, handler = entry_for(loader, config, rewrites), MarkedDatasets()
    monkeypatch.setattr(self_tuning, "find_or_tune", lambda *_, **__: entry)
    monkeypatch.setattr(self_tuning, "say", said.append)
    return lambda: handler.iterating(loader, lambda: DataLoader.__iter__(loader), True)


def _by_class(loader, config, rewrites, said, monkeypatch):
    """As `plumb.DataLoader` does it."""
    own = current_config(loader)
    its = plumb.DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        **own.loader_arguments(),
    )
    monkeypatch.setattr(self_tuning, "say", said.append)
    its.run_on(entry_for(its, config, rewrites))
    return lambda: iter(its)


def _live(loader, config, rewrites, said, monkeypatch):
    """As `tune="live"` does it, once it has decided."""
    pilot = follow(loader, [(0, config)])
    pilot.rewrites, pilot.renewed = rewrites, lambda reason: said.append(f"{reason}: workers are started again")
    pilot.stay_plain = said.append
    pilot.failed = lambda config, reason: said.append(f"{config} failed ({reason})")
    return lambda: live_iterator(loader)


WAYS = {"itself": _by_itself, "plan": _by_plan, "mark": _by_mark, "class": _by_class, "live": _live}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
"""Parametrises a test by `way`, to be called with a loader, a configuration, rewrites, a list for what is said, and
pytest's `monkeypatch`; it returns what begins an epoch."""


def trained(way, make, train, config, monkeypatch, rewrites=NO_REWRITES):
    """What a training yields plainly and in one of the ways, each with its own loader, and the lines that are said."""
    plain = list(train(loader := make(), lambda: iter(loader)))
    loader, said = make(), []
    begin = way(loader, config, rewrites, said, monkeypatch)
    return plain, list(train(loader, begin)), said
