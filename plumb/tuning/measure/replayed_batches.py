"""Batches of a loader for ever: begun anew when they end, or the same few again and again."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from plumb.core.errors import UsersError
from plumb.host.pinned_memory import pinned


class RestartingIterator:
    """Batches of a loader that is restarted when it ends, so that a measurement never ends the user's epoch.

    `begun` is an iterator that the user's loop has started already. Errors of the loader are raised as UsersError.
    """

    def __init__(self, begun: Iterator[Any] | None, start: Callable[[], Iterator[Any]]) -> None:
        self._batches = begun if begun is not None else start()
        self._start = start

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        for batches in (None, self._start):
            if batches is not None:
                self._batches = batches()
            try:
                return next(self._batches)
            except StopIteration:
                continue
            except Exception as error:
                raise UsersError(error) from None
        raise UsersError(StopIteration())


class BegunBatches:
    """Batches of which the `first` was read already; no reference to a delivered batch is kept."""

    def __init__(self, first: Any, others: Iterator[Any]) -> None:
        self._first = [first]
        self._others = others

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._first.pop() if self._first else next(self._others)


def replayed(batches: Iterable[Any], pin: bool) -> Iterator[Any]:
    """Yield the same few batches in a cycle, each time with their original values: a loop may change its batches.

    Tensors are copied only after they were changed. An asynchronous device may still run the previous step meanwhile,
    so that must take almost no time.
    """
    given = [_ReplayedBatch(batch, pin) for batch in batches]
    for each in itertools.cycle(given):
        yield each.again()


class _ReplayedBatch:
    """A batch that is given repeatedly."""

    def __init__(self, batch: Any, pin: bool) -> None:
        self._leaves, self._structure = tree_flatten(batch)
        self._pin = pin
        self._copies: list[Any] = [None] * len(self._leaves)
        self._versions: list[int] = [-1] * len(self._leaves)

    def again(self) -> Any:
        for place, leaf in enumerate(self._leaves):
            copied = self._copies[place]
            if copied is None or not _tells_of_changes(leaf) or copied._version != self._versions[place]:
                copied = _copied(leaf)
                self._copies[place] = copied = pinned(copied) if self._pin else copied
                self._versions[place] = copied._version if _tells_of_changes(copied) else -1
        return tree_unflatten(self._copies, self._structure)


def _copied(leaf: Any) -> Any:
    """Return a copy of one part of a batch, or the part itself if it can't be copied (a lock, a generator)."""
    try:
        return copy.deepcopy(leaf)
    except Exception:
        # Torch can't deep-copy a tensor that autograd has computed; such a batch comes from a model inside the dataset.
        return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf


def _tells_of_changes(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and not leaf.is_inference()
