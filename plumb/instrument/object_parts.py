"""Parts of loaders and objects, including those that are no attributes."""

from __future__ import annotations

import contextlib
import functools
import gc
import random
import threading
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from plumb.instrument.worker_init import ReopeningInit

# Largest number of values to return from a cache.
_VALUES = 64


def roots_of(loader: DataLoader[Any]) -> tuple[Any, ...]:
    """Return the parts that make a loader's samples and batches: its dataset, and the user's functions."""
    init = loader.worker_init_fn
    users_init = init.then if isinstance(init, ReopeningInit) else init
    return tuple(part for part in (loader.dataset, loader.collate_fn, users_init) if part is not None)


def process_generators() -> tuple[Any, ...]:
    """Return the process's own generators, to which functions of `random` and `numpy.random` lead."""
    return random._inst, np.random.mtrand._rand, torch.default_generator


def wrapped_values(value: Any, skips_shared: bool) -> tuple[Any, ...]:
    """Return the objects inside a method, a partial function, a cached function, a queue or a shared value."""
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, property):
        return (value.fget,)
    if hasattr(value, "_obj"):
        return () if skips_shared else (value._obj,)
    if hasattr(value, "queue"):
        return (value.queue,)
    if hasattr(value, "cache_info"):
        return value.__wrapped__, *cached_values(value)
    return tuple(getattr(value, name, None) for name in ("__func__", "func", "__wrapped__"))


def cached_values(function: Any) -> list[Any]:
    """Return some of the values in the cache of a function with `functools.lru_cache`."""
    known = (function.__dict__, function.__wrapped__)
    referred = [each for each in gc.get_referents(function) if not any(each is one for one in known)]
    if function.cache_parameters()["maxsize"] is None:
        caches = [each for each in referred if type(each) is dict]
        return [value for cache in caches for value in islice(cache.values(), _VALUES)]
    # A bounded cache has links in its dictionary, and refers to keys and values directly.
    is_link = "_lru_list_elem"
    values = [each for each in referred if not isinstance(each, type)]
    return [
        value
        for value in values[: 2 * _VALUES]
        if not (type(value) is dict and value and type(next(iter(value.values()))).__name__ == is_link)
    ]


def attributes_of(value: Any) -> dict[str, Any]:
    """Return an object's attributes: those in its dictionary, and those in its slots.

    Its class's `__getattr__` and `__getattribute__`, which may raise anything, are bypassed.
    """
    # What a `threading.local` shows of the present thread is not in the object itself.
    read = threading.local.__getattribute__ if isinstance(value, threading.local) else object.__getattribute__
    try:
        own = read(value, "__dict__")
    except (AttributeError, TypeError):
        own = None
    found = dict(own) if type(own) is dict else {}
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            is_private = name.startswith("__") and not name.endswith("__")
            slot: Any = base.__dict__.get(f"_{base.__name__.lstrip('_')}{name}" if is_private else name)
            if hasattr(slot, "__get__") and name not in ("__dict__", "__weakref__"):
                with contextlib.suppress(AttributeError, TypeError):  # not set yet
                    found[name] = slot.__get__(value)
    return {**found, **scripted_attributes(value)} if isinstance(value, torch.jit.ScriptModule) else found


def scripted_attributes(module: torch.jit.ScriptModule) -> dict[str, Any]:
    """Return the plain attributes of a module that torch has compiled, which are not in its dictionary."""
    inside, kind = vars(module).get("_c"), vars(module).get("_concrete_type")
    if inside is None or kind is None:
        return {}
    # Parameters and buffers are found as those of any module.
    values = {name: inside.getattr(name) for name in kind.get_attributes() if inside.hasattr(name)}
    return {name: value for name, value in values.items() if type(value) in (bool, int, float, str)}


def parts_of(value: Any) -> dict[str, Any]:
    """Return the parameters, buffers and submodules of a module by their attribute names."""
    if not isinstance(value, torch.nn.Module):
        return {}
    return {**value._parameters, **value._buffers, **value._modules}


def hidden_arrays(value: Any) -> dict[str, Any]:
    """Return the arrays of a pandas table, which are not among its attributes."""
    manager = attributes_of(value).get("_mgr")
    blocks: Sequence[Any] = getattr(manager, "blocks", ())
    return {f"block {place}": block.values for place, block in enumerate(blocks)}
