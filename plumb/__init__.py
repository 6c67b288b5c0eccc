"""plumb: tunes the input pipeline of PyTorch training scripts, and shows how it knows."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plumb.host import Limits

__all__ = ["Limits"]
_HOMES = {"Limits": "plumb.host"}


def __getattr__(name: str) -> Any:
    # Public names are fetched when they are used, so that `import plumb` costs nothing.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
