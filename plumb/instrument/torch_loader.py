"""Torch's own `DataLoader` class, even if a script or a library replaced it under its name.

Scripts replace `torch.utils.data.DataLoader` by a subclass, a function or a `functools.partial`. Code of plumb that
derives from the class, or uses `isinstance`, imports it from here.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Generic

HOME = "torch.utils.data.dataloader"
"""Module that defines the class."""


def own_class() -> type[Any]:
    """Return the class as torch defined it; `HOME` must have been imported."""
    found = sys.modules[HOME].__dict__["DataLoader"]
    candidates = [*(found.__mro__ if isinstance(found, type) else ()), *Generic.__subclasses__()]
    own = (each for each in candidates if each.__module__ == HOME and each.__qualname__ == "DataLoader")
    kind: type[Any] = next(own, found)
    return kind


if TYPE_CHECKING:
    from torch.utils.data import DataLoader as DataLoader
else:

    def __getattr__(name: str) -> Any:
        if name != "DataLoader":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import torch.utils.data.dataloader  # noqa: F401

        return own_class()
