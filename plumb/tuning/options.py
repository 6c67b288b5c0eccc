"""The user's wishes for a tuning."""

from __future__ import annotations

from dataclasses import dataclass

from plumb.host import Limits


@dataclass(frozen=True)
class Options:
    """Time, limits and permissions of one tuning.

    `cache_memory_bytes` is the largest memory for stored samples, None for what the limits leave; `cache_folder` is a
    folder for them on a disk, None for none. `on_device` lets batches arrive on the GPU. `study_url` is the Optuna
    storage of the trials, under the name of `script`; None keeps them in memory. `kept_file` has the measurements of an
    interrupted tuning. `ranks` is the number of processes that train together; this process is the one that tunes. With
    `plain`, only torch's own arguments are changed.
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
    def window_seconds(self) -> float:
        """Length of one measurement window of the user's loop or of a configuration, in seconds."""
        return min(max(self.budget_seconds / 75, 0.3), 5.0)
