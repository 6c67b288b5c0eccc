"""Pauses of a user's loop between two batches: validation, samples of a model, checkpoints."""

from __future__ import annotations

from collections import deque
from statistics import median_low

# A step that takes this multiple of the usual time, and at least this long, is a pause if such steps are rare. If they
# recur after a few batches, as with gradient accumulation, they are part of the training step.
_TIMES_USUAL, _SECONDS_AT_LEAST = 10.0, 0.2
_RARE_SHARE, _RARE_STEPS = 0.05, 2
_STEPS_KNOWN = 1000


class LoopPauses:
    """Classifier of a loop's steps and pauses; `seconds` has the lengths of the pauses that were left out."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._steps: deque[float] = deque(maxlen=_STEPS_KNOWN)

    def is_pause(self, step_seconds: float) -> bool:
        """Record the time between two batches, and return whether it was a pause."""
        self._steps.append(step_seconds)
        if step_seconds < _SECONDS_AT_LEAST:
            return False
        least = max(_TIMES_USUAL * median_low(self._steps), _SECONDS_AT_LEAST)
        long_steps = sum(seconds >= least for seconds in self._steps)
        is_rare = long_steps <= max(_RARE_STEPS, _RARE_SHARE * len(self._steps))
        if step_seconds < least or not is_rare:
            return False
        self.seconds.append(step_seconds)
        return True
