"""Laps: consecutive batches of a loop on one configuration, measured by the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

# A step that takes this multiple of the average per batch, and at least so long, is a pause: validation, a checkpoint.
_PAUSE_TIMES, _PAUSE_SECONDS, _BEFORE_A_PAUSE = 10.0, 0.2, 4


@dataclass
class Lap:
    """Time of the loop for `batches`: `wait_seconds` inside the loader, `step_seconds` outside of it, without pauses.

    `start_seconds` is the waiting before the first batch of each epoch. A lap that begins with a change of the
    configuration `waits_until_steady`, because its start happens only once. `others_cpus` are the CPUs that other
    processes kept busy.
    """

    is_own: bool
    waits_until_steady: bool = False
    batches: int = 0
    epochs: int = 0
    wait_seconds: float = 0.0
    step_seconds: float = 0.0
    start_seconds: float = 0.0
    others_cpus: float = 0.0

    @property
    def seconds(self) -> float:
        """Time of the loop, waiting and steps."""
        return self.wait_seconds + self.step_seconds

    @property
    def batches_per_second(self) -> float:
        """Rate of the loop; infinite if the clock has not advanced."""
        return self.batches / self.seconds if self.seconds > 0 else math.inf

    @property
    def without_start(self) -> float:
        """Rate of the loop if epochs began at their first batch."""
        left, batches = self.seconds - self.start_seconds, self.batches - self.epochs
        return batches / left if left > 0 and batches > 0 else self.batches_per_second

    @property
    def seconds_per_step(self) -> float:
        """Seconds per step."""
        return self.step_seconds / self.batches if self.batches else 0.0

    def add_batch(self, wait_seconds: float, step_seconds: float) -> None:
        """Count a batch, and the step before it unless that was a pause."""
        self.wait_seconds += wait_seconds
        if not self._is_pause(step_seconds):
            self.step_seconds += step_seconds
        self.batches += 1

    def add_end(self, wait_seconds: float, step_seconds: float) -> None:
        """Count the last step of an epoch, and the time until the loop saw the end."""
        self.wait_seconds += wait_seconds
        self.step_seconds += 0.0 if self._is_pause(step_seconds) else step_seconds

    def add_first_batch(self, wait_seconds: float) -> None:
        """Count the first batch of an epoch, and the time before it as waiting."""
        self.wait_seconds += wait_seconds
        self.start_seconds += wait_seconds
        self.batches += 1

    def _is_pause(self, seconds: float) -> bool:
        if seconds < _PAUSE_SECONDS or self.batches < _BEFORE_A_PAUSE:
            return False
        return seconds * self.batches > _PAUSE_TIMES * self.seconds
