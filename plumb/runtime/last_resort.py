"""The rest of an epoch by torch's own iterator, where plumb's own code can't even read as the script has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from plumb.config import Config
from plumb.runtime.epoch_order import EpochOrder
from plumb.runtime.loader import rebuild


def rest_of_epoch(template: DataLoader[Any], own: Config, order: EpochOrder) -> Iterator[Any]:
    """Return the batches that were not delivered yet, read on the user's own configuration.

    The order has been drawn as torch would have drawn it; the seed that this iterator draws is taken back.
    """
    generator = template.generator if template.generator is not None else torch.default_generator
    state = generator.get_state()
    try:
        return iter(rebuild(template, own, _Rest(order)))
    finally:
        generator.set_state(state)


class _Rest:
    """What is left of an order, for torch's own iterator to ask."""

    def __init__(self, order: EpochOrder) -> None:
        self._order = order

    def __iter__(self) -> Iterator[Any]:
        while self._order.has_next:
            indices = self._order.next_indices
            self._order.deliver()
            yield indices
