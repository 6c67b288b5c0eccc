"""Lengths of loaders and datasets, if they have any."""

from __future__ import annotations

from typing import Any


def length_of(sized: Any) -> int | None:
    """Return `len(sized)`, or None for a loader or dataset without a length, and for None.

    A user's `__len__` may raise any error before its data exist; then the length is unknown as well.
    """
    try:
        return len(sized)
    except Exception:
        return None


def index_count(indices: Any, is_batch: bool) -> int | None:
    """Return the number of samples of an item from a sampler; None if it is unknown.

    With `is_batch=False` (a sampler of single indices), an item is a batch only if it is a list or an array: a text or
    a tuple is a single index by which the dataset knows a sample.
    """
    if not is_batch and isinstance(indices, (str, bytes, tuple, dict)):
        return None
    return length_of(indices)
