"""Settings of `plumb.tuned` for a dataset, stored on its class or on the dataset itself."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plumb.core.thresholds import LONGEST_BUDGET_SECONDS
from plumb.core.units import is_number

if TYPE_CHECKING:
    from plumb.host import Limits
    from plumb.tuning.options import Options

# `help()` leaves out names with a single underscore.
_MARK = "_plumb_tuned"
USUAL_BUDGET_SECONDS = 30.0


@dataclass(frozen=True)
class Settings:
    """Limits and permissions of a loader that tunes itself.

    `limits` can only lower the host's; `plan_file` is the plan's file in place of the user's cache folder. Without
    `budget_seconds`, a tuning before the first epoch takes `USUAL_BUDGET_SECONDS`, and one beside the training as long
    as it needs. The others are as in `Options`. Raises ValueError for a number that can't be meant.
    """

    budget_seconds: float | None = None
    limits: Limits | None = None
    plan_file: str | None = None
    cache_memory_bytes: float | None = None
    cache_folder: str | None = None
    may_reorder: bool = False
    on_device: bool = False
    plain: bool = False

    def __post_init__(self) -> None:
        check_budget(self.budget_seconds)
        if self.cache_memory_bytes is not None and not self.cache_memory_bytes >= 0:
            raise ValueError(f"cache_memory_bytes={self.cache_memory_bytes!r}: it is a number of bytes from 0")

    def options(self) -> Options:
        """Return the settings as options of a tuning on this host, with its present limits."""
        from plumb.host import Limits
        from plumb.host.limits import LOWERABLE
        from plumb.tuning.options import Options

        limits = Limits.detect(self.cache_folder)
        if self.limits is not None:
            limits = limits.lowered(**{name: getattr(self.limits, name) for name in LOWERABLE})
        return Options(
            USUAL_BUDGET_SECONDS if self.budget_seconds is None else self.budget_seconds,
            limits,
            may_reorder=self.may_reorder,
            on_device=self.on_device,
            cache_memory_bytes=self.cache_memory_bytes,
            cache_folder=self.cache_folder,
            plain=self.plain,
        )


def check_budget(seconds: Any) -> None:
    """Refuse a budget that is neither None nor a number of seconds above 0 and below `LONGEST_BUDGET_SECONDS`.

    Raises:
        TypeError: It is no number.
        ValueError: It is another number.
    """
    if seconds is None:
        return
    if not is_number(seconds):
        raise TypeError(f"budget={seconds!r}: it is a number of seconds, for example budget=30")
    if not 0 < seconds <= LONGEST_BUDGET_SECONDS:
        most = f"{LONGEST_BUDGET_SECONDS:,.0f}"
        raise ValueError(f"budget={seconds!r}: it is a number of seconds above 0 and up to {most}, such as budget=30")


def is_off() -> bool:
    """Return whether plumb is switched off for this process; `plumb tune` and `plumb run` do so for a script."""
    return os.environ.get("PLUMB", "").lower() == "off"


def mark(target: Any, settings: Settings) -> bool:
    """Mark a dataset or a class; return False if the object takes no attributes."""
    try:
        setattr(target, _MARK, settings)
    except (AttributeError, TypeError):
        return False
    return True


def settings_of(dataset: Any) -> Settings | None:
    """Return the settings of a dataset, or of the dataset behind torch's `Subset`; None without any."""
    subset = getattr(sys.modules.get("torch.utils.data"), "Subset", ())
    while isinstance(dataset, subset) and not _has_mark(dataset):
        dataset = dataset.dataset
    return getattr(dataset, _MARK) if _has_mark(dataset) else None


def _has_mark(dataset: Any) -> bool:
    # Looked up without `__getattr__`, with which datasets delegate to others.
    return _MARK in getattr(dataset, "__dict__", ()) or any(_MARK in vars(kind) for kind in type(dataset).__mro__)
