"""How often the script has cleared a function's cache: what is behind it is read anew then, by whoever has no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class _Counting:
    """Clears a cache, and counts how often."""

    clear: Callable[[], None]
    times: int = 0

    def __call__(self) -> None:
        self.times += 1
        self.clear()


def times_cleared(function: Any) -> int | None:
    """Return how often a function with `functools.lru_cache` was cleared since this was first asked; None for others.

    In a process that makes no samples the cache is empty all the time, and shows nothing.
    """
    attributes = getattr(function, "__dict__", None)
    clear = getattr(function, "cache_clear", None)
    if type(attributes) is not dict or not callable(clear):
        return None
    counting = attributes.get("cache_clear")
    if not isinstance(counting, _Counting):
        counting = attributes["cache_clear"] = _Counting(clear)
    return counting.times
