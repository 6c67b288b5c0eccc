"""Restoration of a dataset's state after reading, so that a tuned loader delivers the same as without tuning."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from plumb.instrument.dataset_objects import GROWING, DatasetObjects

# Longer collections are not restored: a dataset's index is long, and reading doesn't change it.
_LONGEST = 1_000_000


@contextmanager
def restored_state(loader: DataLoader[Any]) -> Iterator[None]:
    """Restore what reading in the context changes in the dataset, its transforms, its samplers and random generators.

    That is their attributes, and the items of their lists, dictionaries and sets. Deeper changes, and positions in
    files, are not restored.
    """
    samplers = _samplers(loader)
    drawn = {id(each): each for each in (loader.generator, *(getattr(each, "generator", None) for each in samplers))}
    generators = [(each, each.get_state()) for each in drawn.values() if isinstance(each, torch.Generator)]
    held = [DatasetObjects(each) for each in (loader.dataset, *samplers)]
    owners = [each for each in samplers if hasattr(each, "__dict__")] + [each for some in held for each in some.objects]
    attributes = [(vars(each), dict(vars(each))) for each in {id(each): each for each in owners}.values()]
    contents = [
        (value, list(value.items()) if isinstance(value, dict) else list(value))
        for _, before in attributes
        for value in before.values()
        if isinstance(value, GROWING) and len(value) <= _LONGEST
    ]
    with held[0].kept():
        try:
            yield
        finally:
            for generator, state in generators:
                generator.set_state(state)
            for now, before in attributes:
                if now.keys() != before.keys() or any(now[name] is not value for name, value in before.items()):
                    now.clear()
                    now.update(before)
            for value, before_it in contents:
                _refill(value, before_it)


def single_pass_part(loader: DataLoader[Any]) -> str:
    """Return the class of a loader's part that can be read only once; empty if all parts can be restarted.

    Such a part is a stream that is its own iterator, or contains one: an open file, a generator.
    """
    parts = _samplers(loader)
    parts += [loader.dataset] if isinstance(loader.dataset, IterableDataset) else []
    for part in parts:
        held = getattr(part, "__dict__", {}).values()
        if any(hasattr(type(value), "__next__") for value in (part, *held)):
            return type(part).__name__
    return ""


def _samplers(loader: DataLoader[Any]) -> list[Any]:
    """Return the parts that determine the order: the batch sampler and the samplers inside, if known."""
    inside = getattr(loader.batch_sampler, "sampler", None)
    found = {id(each): each for each in (loader.batch_sampler, loader.sampler, inside) if each is not None}
    return list(found.values())


def _refill(value: Any, before: list[Any]) -> None:
    """Restore the items of a collection."""
    now = list(value.items()) if isinstance(value, dict) else list(value)
    if len(now) == len(before) and all(_is_same(one, other) for one, other in zip(now, before, strict=True)):
        return
    value.clear()
    if isinstance(value, (dict, set)):
        value.update(before)
    elif isinstance(value, (list, deque)):
        value.extend(before)


def _is_same(now: Any, before: Any) -> bool:
    if isinstance(now, tuple) and isinstance(before, tuple) and len(now) == len(before):
        return all(one is other for one, other in zip(now, before, strict=True))
    return now is before
