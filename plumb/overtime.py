"""How long after its budget a tuning may go on: in the script, and by the clock of the parent, which ends it."""

from __future__ import annotations

_LATE_SECONDS, _LATE_SHARE = 12.0, 0.3
# What is in the middle of a measurement then, which may start workers, is waited for.
_SLACK_SECONDS, _SLACK_SHARE = 8.0, 0.2


def late_seconds(budget_seconds: float) -> float:
    """Return how long after its budget a tuning may still measure what its answer needs."""
    return max(_LATE_SECONDS, _LATE_SHARE * budget_seconds)


def grace_seconds(budget_seconds: float) -> float:
    """Return how long after its budget a tuning is ended, with whatever it has."""
    return late_seconds(budget_seconds) + max(_SLACK_SECONDS, _SLACK_SHARE * budget_seconds)
