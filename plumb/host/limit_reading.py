"""A limit with the place where it was read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

NO_LIMIT_KNOWN = "no limit known"


@dataclass(frozen=True)
class LimitReading:
    """One limit from one place of the host; `source` is a short text for people."""

    value: float
    source: str


def smallest(readings: Iterable[LimitReading]) -> LimitReading:
    """Return the first of the smallest readings, or infinity if nothing was read."""
    return min(readings, key=lambda reading: reading.value, default=LimitReading(math.inf, NO_LIMIT_KNOWN))
