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
