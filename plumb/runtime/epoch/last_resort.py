"""Batches by torch's own iterator: the rest of an epoch, or one that another configuration failed to deliver."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.instrument.worker_init import users_init
from plumb.runtime.epoch.epoch_order import EpochOrder
from plumb.runtime.loader import rebuild


def rest_of_epoch(template: DataLoader[Any], own: Config, order: EpochOrder) -> Iterator[Any]:
    """Return the undelivered batches, read by the user's own configuration.

    The order has been drawn as torch would have drawn it, so the seed that this iterator draws is undone.
    """
    generator = template.generator if template.generator is not None else torch.default_generator
    state = generator.get_state()
    try:
        return iter(rebuild(template, own, _Rest(order)))
    finally:
        generator.set_state(state)


def error_in_users_worker(template: DataLoader[Any], own: Config, indices: Any) -> Exception | None:
    """Return the error of a batch in a new worker of the user's own configuration, or None if it can be made."""
    generator = template.generator if template.generator is not None else torch.default_generator
    state = generator.get_state()
    one = dataclasses.replace(own, num_workers=1, persistent_workers=False)
    loader = rebuild(template, one, [indices])
    # As in the user's own worker, so that the traceback is the same.
    loader.worker_init_fn = users_init(loader.worker_init_fn)
    try:
        next(iter(loader))
    except Exception as error:
        return error
    finally:
        generator.set_state(state)
    return None


class _Rest:
    """Remaining batches of an order, as a sampler for torch's own iterator."""

    def __init__(self, order: EpochOrder) -> None:
        self._order = order

    def __iter__(self) -> Iterator[Any]:
        while self._order.has_next:
            indices = self._order.next_indices
            self._order.deliver()
            yield indices
