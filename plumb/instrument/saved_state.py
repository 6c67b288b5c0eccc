"""Loaders and datasets whose place in an epoch is saved in a checkpoint: `state_dict` and `load_state_dict`."""

from __future__ import annotations

from typing import Any

METHODS = ("state_dict", "load_state_dict")


def is_stateful(loader: Any) -> bool:
    """Return whether the loader's class saves a state, as torchdata's `StatefulDataLoader` does.

    Methods that a class only provides by `__getattr__` don't count, because plumb's own loaders have a state that fits
    any number of workers.
    """
    return all(any(name in vars(kind) for kind in type(loader).__mro__) for name in METHODS)
