"""What the user asked of a tuning."""

from __future__ import annotations

from dataclasses import dataclass

from plumb.host import Limits


@dataclass(frozen=True)
class Options:
    """Time, limits and permissions of one tuning.

    `cache_memory_bytes` is what samples may take in memory at most, None for what the limits leave; `cache_folder` is
    where they may be stored on a disk, None for nowhere. `on_device` lets batches arrive on the GPU. `study_url` is the
    Optuna storage that keeps what was tried, under the name of `script`; None keeps it in memory. `kept_file` holds
    what an interrupted tuning measured. `ranks` train together, of which this process is the one that tunes. With
    `plain`, nothing is changed but torch's own arguments.
    """

    budget_seconds: float
    limits: Limits
    seed: int = 0
    may_reorder: bool = False
    on_device: bool = False
    cache_memory_bytes: float | None = None
    cache_folder: str | None = None
    study_url: str | None = None
    script: str = ""
    kept_file: str | None = None
    ranks: int = 1
    plain: bool = False

    @property
    def pace_seconds(self) -> float:
        """How long one look at the user's loop or at a configuration takes."""
        return min(max(self.budget_seconds / 75, 0.3), 5.0)
