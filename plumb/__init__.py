"""Auto-tuner for the input pipelines of PyTorch training scripts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plumb.api import LoaderPlan, tune
    from plumb.dataloader import DataLoader
    from plumb.decorator import tuned
    from plumb.hints import operator
    from plumb.host import Limits
    from plumb.trace import Flow, Operator, Pipeline, trace

__all__ = ["DataLoader", "Flow", "Limits", "LoaderPlan", "Operator", "Pipeline", "operator", "trace", "tune", "tuned"]
_HOMES = {
    "DataLoader": "plumb.dataloader",
    "Flow": "plumb.trace",
    "Limits": "plumb.host",
    "LoaderPlan": "plumb.api",
    "Operator": "plumb.trace",
    "Pipeline": "plumb.trace",
    "operator": "plumb.hints",
    "tune": "plumb.api",
    "tuned": "plumb.decorator",
}


def __getattr__(name: str) -> Any:
    # Public names are imported on first use, so that `import plumb` takes no time.
    import importlib

    if name == "trace":
        return importlib.import_module("plumb.trace")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
