"""CPU time that remains for the training loop when other processes use the CPUs too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# Other processes that use less than this share of the CPUs don't show how the kernel shares CPU time.
_SHOWS = 0.2


@dataclass(frozen=True)
class CpuCompetition:
    """Competition by other processes that would keep `others_cpus` of the `cpus` shared CPUs busy.

    A kernel gives all runnable processes the same share, or first shares CPU time between groups of them (control
    groups, sessions). `by_processes` is 1 in the first case, in which the loop gets more the more processes it has, and
    0 in the second, in which it gets what the other processes leave.
    """

    cpus: float
    others_cpus: float
    by_processes: float = 1.0

    def left(self, processes: Any) -> Any:
        """Return the most CPU seconds per second that `processes` processes of the loop (or each of an array) get."""
        unwanted, gained = self._unwanted, self._gained(np.asarray(processes, dtype=float))
        return unwanted + self.by_processes * gained

    def as_seen(self, processes: float, used_cpus: float) -> CpuCompetition:
        """Return the competition in which `processes` processes got `used_cpus`; unchanged if that shows nothing."""
        gained = float(self._gained(processes))
        is_little = self.others_cpus < _SHOWS * self.cpus
        if is_little or gained <= 0 or processes + self.others_cpus <= self.cpus:
            return self
        return replace(self, by_processes=min(max((used_cpus - self._unwanted) / gained, 0.0), 1.0))

    @property
    def _unwanted(self) -> float:
        return max(0.0, self.cpus - self.others_cpus)

    def _gained(self, processes: Any) -> Any:
        """Return how much equal shares for all processes exceed the CPUs that the other processes leave."""
        return np.maximum(0.0, self.cpus * processes / (processes + self.others_cpus) - self._unwanted)
