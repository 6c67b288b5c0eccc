"""The start of an epoch: with the plan's configuration, but with the random draws that the user's own would have made.

Torch draws a seed for the workers from the loader's generator whenever it makes an iterator, and the sampler draws its
order from the same generator next. An iterator that persists draws no new seed, so that the order of every later epoch
would change with `persistent_workers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader


def start_epoch(loader: DataLoader[Any], start: Callable[[], Iterator[Any]], users_persist: bool) -> Iterator[Any]:
    """Starts the second or a later epoch of `loader`.

    `users_persist` says whether the workers of the user's own configuration persist. Where theirs do and the plan's
    don't, there must be no workers now: the order can be kept for that only.
    """
    persists = loader._iterator is not None
    if persists == users_persist:
        return start()
    if persists:
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        return start()
    generator = loader.generator or torch.default_generator
    state = generator.get_state()
    batches = start()
    generator.set_state(state)
    return batches


def state_of(value: Any, depth: int = 3) -> Any:
    """What can be seen cheaply of an object's state: simple values, identities, lengths, and versions of tensors.

    Two equal states don't prove that nothing changed deep inside; two different ones prove that something did.
    """
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return value
    if isinstance(value, (list, tuple, dict, set)):
        return id(value), len(value)
    if isinstance(value, torch.Tensor):
        return id(value), value._version
    if depth and hasattr(value, "__dict__"):
        return id(value), tuple((name, state_of(item, depth - 1)) for name, item in vars(value).items())
    return id(value)
