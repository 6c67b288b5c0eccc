"""What is left of the CPUs where other processes want them, too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# Others that want less than this share of the CPUs say nothing of how a kernel shares them out.
_SHOWS = 0.2


@dataclass(frozen=True)
class Competition:
    """Others would keep `others_cpus` busy of the `cpus` that they and the loop may run on.

    A kernel gives all processes that want a CPU the same share, or shares out among groups of them first (control
    groups, sessions). `by_processes` is 1 in the first case, in which the loop gets the more, the more processes it
    has, and 0 in the second, in which it gets what the others leave.
    """

    cpus: float
    others_cpus: float
    by_processes: float = 1.0

    def left(self, processes: Any) -> Any:
        """CPU seconds per second that so many processes of the loop, a number or an array, get between them at most."""
        unwanted, gained = self._unwanted, self._gained(np.asarray(processes, dtype=float))
        return unwanted + self.by_processes * gained

    def as_seen(self, processes: float, used_cpus: float) -> Competition:
        """The competition in which so many processes got `used_cpus`; this one, where that does not tell."""
        gained = float(self._gained(processes))
        is_little = self.others_cpus < _SHOWS * self.cpus
        if is_little or gained <= 0 or processes + self.others_cpus <= self.cpus:
            return self
        return replace(self, by_processes=min(max((used_cpus - self._unwanted) / gained, 0.0), 1.0))

    @property
    def _unwanted(self) -> float:
        return max(0.0, self.cpus - self.others_cpus)

    def _gained(self, processes: Any) -> Any:
        """What the same share for every process is more than what the others leave."""
        return np.maximum(0.0, self.cpus * processes / (processes + self.others_cpus) - self._unwanted)
