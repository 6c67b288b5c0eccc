"""How long loaders and datasets are, as far as they say."""

from __future__ import annotations

from typing import Any


def length_of(sized: Any) -> int | None:
    """Return `len(sized)`, or None for a loader or dataset without a length, and for None.

    The user's `__len__` may raise anything before its data are there: then the length is not known either.
    """
    try:
        return len(sized)
    except Exception:
        return None


def index_count(indices: Any, is_batch: bool) -> int | None:
    """Return how many samples the indices stand for that a sampler gives at once; None where that can't be told.

    What a sampler of single indices gives (`is_batch=False`) is a batch of them only where it is a list or an array: a
    text or a tuple is the index of something that the dataset knows by that name.
    """
    if not is_batch and isinstance(indices, (str, bytes, tuple, dict)):
        return None
    return length_of(indices)
