"""What the user asked of a tuning."""

from __future__ import annotations

from dataclasses import dataclass

from plumb.host import Limits


@dataclass(frozen=True)
class Options:
    """Time, limits and permissions of one tuning."""

    budget_seconds: float
    limits: Limits
    seed: int = 0
    may_reorder: bool = False

    @property
    def pace_seconds(self) -> float:
        """How long one look at the user's loop or at a configuration takes."""
        return min(max(self.budget_seconds / 75, 0.3), 5.0)
