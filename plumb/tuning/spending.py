"""Cost of a tuning since its beginning."""

from __future__ import annotations

import os
import time

from plumb.core.plan import TuningCost


class Spending:
    """Seconds, and CPU seconds of this process and of the workers that it has ended, since construction."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._cpu = _cpu_seconds()

    def on(self, samples: float) -> TuningCost:
        """Return the cost so far, with the number of samples loaded."""
        return TuningCost(time.perf_counter() - self._begun, samples, _cpu_seconds() - self._cpu)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
