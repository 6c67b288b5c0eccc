"""How long loaders and datasets are, as far as they say."""

from __future__ import annotations

from typing import Any


def length_of(sized: Any) -> int | None:
    """`len(sized)`, or None for a loader or dataset without a length, and for None."""
    try:
        return len(sized)
    except (TypeError, NotImplementedError):
        return None
