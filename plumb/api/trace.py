"""`plumb.trace`: what a sample of a dataset goes through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plumb.api.argument_checks import check_dataset
from plumb.report.notebook import pipeline_html
from plumb.report.trace_tree import as_text
from plumb.tracing.pipeline import Pipeline
from plumb.tracing.tracer import trace as run

# A notebook and `print` show a pipeline by what stands in a room above it.
Pipeline.html_form = staticmethod(pipeline_html)
Pipeline.text_form = staticmethod(as_text)


def trace(
    dataset_or_loader: Any,
    samples: int = 16,
    *,
    indices: Sequence[Any] | None = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    batch_size: int | None = None,
) -> Pipeline:
    """Trace what makes a dataset's samples: the operators, the values that flow between them, and the operators' costs.

    Loads the same samples several times and collates them. The user's code is left unchanged, and the process's random
    number generators get their states back.

    Args:
        dataset_or_loader: A map-style or iterable dataset, or a DataLoader.
        samples: Number of samples to trace. Fewer are traced when they are slow.
        indices: Indices of the samples to trace; None spreads them over the dataset, or takes the sampler's first keys.
        collate_fn: Collate function; None takes the loader's, or torch's default for a dataset without a loader.
        batch_size: Number of samples to collate at once; None takes the loader's, or `samples` for a dataset alone.

    Returns:
        The graph with the costs per sample, in seconds and bytes.

    Raises:
        TypeError: It is no dataset, or `samples` is no whole number.
        ValueError: `samples` is below 1.
        plumb.core.errors.TuningError: The dataset is empty.
        TraceError: The dataset can't be traced (a ValueError, from `plumb.tracing.sample_source`).
        Exception: Whatever the dataset itself raises.

    >>> import plumb, torch
    >>> plumb.trace(torch.rand(64, 1000), samples=8).samples
    8
    """
    check_dataset(dataset_or_loader, "plumb.trace", may_stream=True)
    if isinstance(samples, bool) or not isinstance(samples, int):
        raise TypeError(f"samples={samples!r}: it is a whole number, for example samples=16")
    if samples < 1:
        raise ValueError(f"samples={samples}: at least one is traced; write for example samples=16")
    return run(dataset_or_loader, samples, indices, collate_fn, batch_size).pipeline


def __getattr__(name: str) -> Any:
    # Graphs are built when something is traced. Who runs on a plan needs the rest of this package alone.
    if name in ("Flow", "Operator", "Pipeline"):
        from plumb.tracing import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
