"""Attributes of a loader that a configuration replaces, and their restoration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from plumb.core.config import Config

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


def plans_attributes(loader: DataLoader[Any], config: Config) -> dict[str, Any]:
    """Return the attributes that a loader must have to run on `config`."""
    from plumb.runtime.planned_loader import attributes_of

    attributes = attributes_of(loader, config)
    if not config.num_workers:
        # Torch refuses it without workers if a library makes a loader from this one's arguments.
        attributes["multiprocessing_context"] = None
    return attributes


def users_attributes(loader: DataLoader[Any], config: Config) -> dict[str, Any]:
    """Return the present values of the attributes that `config` replaces."""
    names = {**plans_attributes(loader, config), "multiprocessing_context": None}
    return {name: getattr(loader, name) for name in names}


def set_attributes(loader: DataLoader[Any], attributes: Mapping[str, Any]) -> None:
    """Set attributes of a loader that torch forbids setting after its construction."""
    # Torch checks a start method against the present number of workers.
    for name in sorted(attributes, key=lambda name: (name == "multiprocessing_context", name)):
        object.__setattr__(loader, name, attributes[name])
