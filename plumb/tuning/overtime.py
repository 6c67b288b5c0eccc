"""Time after its budget that a tuning may take: by its own clock, and by that of the parent, which ends it."""

from __future__ import annotations

_LATE_SECONDS, _LATE_SHARE = 12.0, 0.3
# A measurement in progress, which may start workers, is waited for.
_SLACK_SECONDS, _SLACK_SHARE = 8.0, 0.2


def late_seconds(budget_seconds: float) -> float:
    """Return the seconds after its budget in which a tuning may still measure what its answer needs."""
    return max(_LATE_SECONDS, _LATE_SHARE * budget_seconds)


def grace_seconds(budget_seconds: float) -> float:
    """Return the seconds after its budget at which a tuning is ended, with the results that it has."""
    return late_seconds(budget_seconds) + max(_SLACK_SECONDS, _SLACK_SHARE * budget_seconds)
