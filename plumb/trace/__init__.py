"""Dataset code -> a graph of operators, by recompiling the functions that a sample goes through."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from plumb.trace.pipeline import Flow, Operator, Pipeline

__all__ = ["Flow", "Operator", "Pipeline", "trace"]


def trace(
    dataset_or_loader: Any,
    samples: int = 16,
    *,
    indices: Sequence[Any] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    batch_size: int | None = None,
) -> Pipeline:
    """What a sample of a dataset goes through: the operators, what flows between them, and what each costs.

    Loads `samples` samples several times over (fewer of them where they are slow), those at `indices` where these are
    given, and collates them as the loader would; a dataset given without a loader, with torch's default. Nothing is
    left behind in the user's code, and the process's random generators are put back as they were.

    Raises `plumb.trace.sources.TraceError` (a ValueError) where there is nothing to trace, and whatever the dataset
    itself raises.

    >>> import plumb, torch
    >>> plumb.trace(torch.rand(64, 1000), samples=8).samples
    8
    """
    from plumb.trace.course import trace as run

    return run(dataset_or_loader, samples, indices, collate_fn, batch_size).pipeline


class _Callable(ModuleType):
    """Lets the room be the function that it is named after: `plumb.trace(dataset)` works once it is imported."""

    __call__ = staticmethod(trace)


sys.modules[__name__].__class__ = _Callable
