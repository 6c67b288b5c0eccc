"""Auto-tuner for the input pipelines of PyTorch training scripts."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plumb.api.dataloader import DataLoader
    from plumb.api.decorator import tuned
    from plumb.api.trace import trace
    from plumb.api.tune import LoaderPlan, tune
    from plumb.host import Limits
    from plumb.instrument.hints import operator
    from plumb.tracing.pipeline import Flow, Operator, Pipeline

__all__ = ["DataLoader", "Flow", "Limits", "LoaderPlan", "Operator", "Pipeline", "operator", "trace", "tune", "tuned"]
_HOMES = {
    "DataLoader": "plumb.api.dataloader",
    "Flow": "plumb.tracing.pipeline",
    "Limits": "plumb.host",
    "LoaderPlan": "plumb.api.tune",
    "Operator": "plumb.tracing.pipeline",
    "Pipeline": "plumb.tracing.pipeline",
    "operator": "plumb.instrument.hints",
    "trace": "plumb.api.trace",
    "tune": "plumb.api.tune",
    "tuned": "plumb.api.decorator",
}


def __getattr__(name: str) -> Any:
    # Public names are imported on first use, so that `import plumb` takes no time.
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
