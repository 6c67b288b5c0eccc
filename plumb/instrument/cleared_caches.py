"""Count of how often the script clears a function's cache, after which other processes must reread its source too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class _CountingClear:
    """Function that clears a cache and counts its calls."""

    clear: Callable[[], None]
    times: int = 0

    def __call__(self) -> None:
        self.times += 1
        self.clear()


def times_cleared(function: Any) -> int | None:
    """Return how often a function with `functools.lru_cache` was cleared since the first call here; None for others.

    The cache's own size shows nothing in a process that makes no samples, because it is always empty there.
    """
    attributes = getattr(function, "__dict__", None)
    clear = getattr(function, "cache_clear", None)
    if type(attributes) is not dict or not callable(clear):
        return None
    counting = attributes.get("cache_clear")
    if not isinstance(counting, _CountingClear):
        counting = attributes["cache_clear"] = _CountingClear(clear)
    return counting.times
