"""A plan's operators and simulated workers as trace events for ui.perfetto.dev and chrome://tracing.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plumb.core.plan import LoaderResult, Plan
from plumb.model.simulator import MAIN, STEP
from plumb.model.timeline import Timeline
from plumb.tracing.pipeline import Pipeline
from plumb.tracing.stored_pipeline import from_node_link

_MICROSECONDS = 1e6
_ROWS = {MAIN: "main process", STEP: "training step"}


def trace_events(plan: Plan, timelines: Mapping[str, Sequence[Timeline]]) -> dict[str, Any]:
    """Return the trace as data for JSON. Each traced sample and each simulated timeline is a separate process."""
    events: list[dict[str, Any]] = []
    processes = itertools.count(1)
    for loader in plan.loaders:
        if loader.graph is not None:
            events += _sample(loader, from_node_link(loader.graph), next(processes))
        for timeline in timelines.get(loader.name, ()):
            events += _workers(loader, timeline, next(processes))
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"script": plan.script}}


def _sample(loader: LoaderResult, pipeline: Pipeline, process: int) -> Iterator[dict[str, Any]]:
    """Yield the operators of one sample in a row, with their mean times."""
    yield _about("process_name", process, name=f"{loader.name}: a sample's operators, measured")
    yield _about("thread_name", process, name="operators")
    begin = 0.0
    for operator in pipeline.operators:
        told = {
            "computes_ms": operator.cpu_seconds * 1e3,
            "waits_ms": operator.wait_seconds * 1e3,
            "random": operator.random,
            "location": operator.location,
        }
        yield _slice(operator.name, operator.kind, process, 0, begin, operator.wall_seconds, told)
        begin += operator.wall_seconds


def _workers(loader: LoaderResult, timeline: Timeline, process: int) -> Iterator[dict[str, Any]]:
    yield _about("process_name", process, name=f"{loader.name}: simulated with {timeline.config}")
    rows = [*range(timeline.config.num_workers), MAIN, STEP]
    for place, row in enumerate(rows):
        yield _about("thread_name", process, place, name=_ROWS.get(row, f"worker {row + 1}"))
        yield _about("thread_sort_index", process, place, sort_index=place)
    first = min((span.begin_seconds for span in timeline.spans), default=0.0)
    for span in timeline.spans:
        seconds = span.end_seconds - span.begin_seconds
        row = rows.index(span.process)
        yield _slice(span.doing, "simulated", process, row, span.begin_seconds - first, seconds, {"batch": span.batch})


def _slice(
    name: str, category: str, process: int, thread: int, begin: float, seconds: float, told: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "pid": process,
        "tid": thread,
        "ts": begin * _MICROSECONDS,
        "dur": seconds * _MICROSECONDS,
        "args": told,
    }


def _about(kind: str, process: int, thread: int = 0, **told: str | int) -> dict[str, Any]:
    """Return the event that sets a process's or thread's name or position."""
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": told}
