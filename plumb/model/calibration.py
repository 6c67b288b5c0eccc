"""What short runs of a real loader teach about a host: how processes that work at once slow each other down."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Workers beyond the cores cost this share at most, where no run has said otherwise.
USUAL_OVERSUBSCRIPTION = 0.2


@dataclass(frozen=True)
class Calibration:
    """How much more CPU a sample takes when others work too, and what the main process spends on taking over a batch.

    - `crowding`: the share by which a sample's CPU seconds grow from one busy core to all; memory bandwidth and
      siblings of a core make it positive, and it is negative where work in a row is cheaper than work now and then.
    - `oversubscription`: the further share that they grow by at most, when many more processes compute than there are
      cores.
    - `hand_over_seconds_per_batch` and `hand_over_seconds_per_byte`: CPU seconds of the main process.
    """

    crowding: float = 0.0
    oversubscription: float = USUAL_OVERSUBSCRIPTION
    hand_over_seconds_per_batch: float = 0.0
    hand_over_seconds_per_byte: float = 0.0

    def hand_over_seconds(self, batch_bytes: float) -> float:
        """CPU seconds of the main process to take over one batch."""
        return self.hand_over_seconds_per_batch + self.hand_over_seconds_per_byte * batch_bytes

    def slow_down(self, processes: float, cores: float) -> float:
        """The factor on a sample's CPU seconds when `processes` would compute at once on `cores`; 1 for one alone.

        It grows in a straight line up to the cores, and beyond them towards its limit as the share of processes that
        must stand still does.
        """
        if math.isinf(cores):
            return 1.0
        busy = min(processes, cores)
        crowded = 1.0 + self.crowding * (busy - 1.0) / (cores - 1.0) if cores > 1 and busy > 1 else 1.0
        standing = 1.0 - cores / processes if processes > cores else 0.0
        return crowded * (1.0 + self.oversubscription * standing)
