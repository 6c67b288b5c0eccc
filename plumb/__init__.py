"""Auto-tuner for the input pipelines of PyTorch training scripts.

For a script, type `plumb tune train.py` in a terminal. From Python, three calls are usual:

    plan = plumb.tune(dataset, batch_size=64, shuffle=True, step=train_step)  # measure, decide
    print(plan.explain())                                                     # what was found, and why
    loader = plan.loader(dataset, shuffle=True)                               # a loader that runs on the plan

`@plumb.tuned` on a Dataset class and `plumb.DataLoader` do this by themselves. `plumb.trace` shows what a sample goes
through, `plumb.predict` what another host would make of a plan, `plumb.report` a plan as a page, and
`plumb.Limits.detect()` what this host allows.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plumb.api.dataloader import DataLoader
    from plumb.api.decorator import tuned
    from plumb.api.forecast import Forecast, predict
    from plumb.api.trace import trace
    from plumb.api.tune import LoaderPlan, tune
    from plumb.host import Limits
    from plumb.instrument.hints import operator
    from plumb.report import report
    from plumb.tracing.pipeline import Flow, Operator, Pipeline

    __version__: str

__all__ = [
    "DataLoader",
    "Flow",
    "Forecast",
    "Limits",
    "LoaderPlan",
    "Operator",
    "Pipeline",
    "operator",
    "predict",
    "report",
    "trace",
    "tune",
    "tuned",
]
_HOMES = {
    "DataLoader": "plumb.api.dataloader",
    "Flow": "plumb.tracing.pipeline",
    "Forecast": "plumb.api.forecast",
    "Limits": "plumb.host",
    "LoaderPlan": "plumb.api.tune",
    "Operator": "plumb.tracing.pipeline",
    "Pipeline": "plumb.tracing.pipeline",
    "operator": "plumb.instrument.hints",
    "predict": "plumb.api.forecast",
    "trace": "plumb.api.trace",
    "tune": "plumb.api.tune",
    "tuned": "plumb.api.decorator",
}


def __getattr__(name: str) -> Any:
    # Public names are imported on first use, so that `import plumb` takes no time.
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "report":
        return importlib.import_module("plumb.report")
    if name == "__version__":
        from importlib.metadata import version

        return version("plumb-tune")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__all__", "__doc__", "__name__", "__version__"])
