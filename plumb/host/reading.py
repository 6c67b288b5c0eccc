"""A limit and where it was read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

NO_LIMIT_KNOWN = "no limit known"


@dataclass(frozen=True)
class Reading:
    """One limit as one place of the host gives it: `source` is a short sentence for people."""

    value: float
    source: str


def smallest(readings: Iterable[Reading]) -> Reading:
    """The reading that binds: the first of the smallest, or infinity where nothing was read."""
    return min(readings, key=lambda reading: reading.value, default=Reading(math.inf, NO_LIMIT_KNOWN))
