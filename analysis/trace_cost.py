"""Accuracy and cost of a trace: the operators' times against untraced samples, and the passes' own price.

    python -m analysis.trace_cost

Prints and writes `analysis/results/trace_cost.md`. Each trace times its operators and untraced samples in turns, so
that drift of the machine hits both; the price of recording comes from loads of the same samples in turns, too.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate

from analysis.images import train_loader
from analysis.machine import description
from plumb.api.trace import trace
from plumb.host.read_counter import ReadCounter
from plumb.instrument.recorder import Recorder
from plumb.tracing.dataflow_pass import Discovery
from plumb.tracing.operator_selection import choose, select
from plumb.tracing.pipeline import Pipeline
from plumb.tracing.sample_source import source_of
from plumb.tracing.timing_pass import Timing
from plumb.tracing.tracer import TracePasses

RESULTS = Path(__file__).parent / "results" / "trace_cost.md"
TRACES, SAMPLES, TURNS = 5, 32, 12


def accuracy(pipelines: list[Pipeline]) -> list[str]:
    """Return a row for each trace: the sum of its operators, beside the untraced time of a sample."""
    rows = ["| trace | operators | untraced | sum / untraced | operators in the graph |", "|---|---|---|---|---|"]
    for number, pipeline in enumerate(pipelines, 1):
        total, plain = pipeline.attributed_seconds, pipeline.sample_seconds
        rows.append(
            f"| {number} | {total * 1e3:.3f} ms | {plain * 1e3:.3f} ms | {total / plain:.3f} | {len(pipeline.graph)} |"
        )
    ratios = sorted(pipeline.attributed_seconds / pipeline.sample_seconds for pipeline in pipelines)
    rows.append(f"\nMedian of the ratios: {median(ratios):.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f}).")
    return rows


def price(dataset: Dataset[Any]) -> list[str]:
    """Return a row for each kind of pass: the time of a sample in it, all kinds in turns."""
    trace_passes = TracePasses(source_of(dataset, SAMPLES, None, 1), default_collate, SAMPLES)
    units, weights = trace_passes.first_timing(SAMPLES)
    operators = choose(trace_passes.root, weights, readers=())
    with ReadCounter() as reads:
        recorders: dict[str, Recorder | None] = {
            "untraced": None,
            "the operators timed": Timing(trace_passes.root, trace_passes.rewriter, select(operators, whole=True)),
            "every call timed": Timing(trace_passes.root, trace_passes.rewriter),
            "every call followed": Discovery(trace_passes.root, trace_passes.rewriter, reads),
        }
        passes: dict[str, list[float]] = {name: [] for name in recorders}
        for _ in range(TURNS):
            for name, recorder in recorders.items():
                passes[name].append(seconds_per_sample(trace_passes, recorder, units))
    seconds = {name: median(figures[1:]) for name, figures in passes.items()}
    rows = ["| pass | a sample takes | against untraced |", "|---|---|---|"]
    return rows + [f"| {name} | {s * 1e3:.3f} ms | {s / seconds['untraced']:.2f} |" for name, s in seconds.items()]


def seconds_per_sample(trace_passes: TracePasses, recorder: Recorder | None, units: int) -> float:
    """Return the wall time of one sample in one pass over all of them."""
    loads = trace_passes.source.loads(recorder, units)
    with recorder or nullcontext():
        started = time.perf_counter()
        for load in loads:
            load()
        seconds = time.perf_counter() - started
    if isinstance(recorder, Discovery):
        recorder.keep_only(())
    return seconds / units


def main() -> None:
    """Measures on the images example's train set, prints and writes the result."""
    torch.set_num_threads(1)
    dataset = train_loader().dataset
    started = time.perf_counter()
    pipelines = [trace(dataset, SAMPLES) for _ in range(TRACES)]
    took = (time.perf_counter() - started) / TRACES
    lines = [
        "# What a trace gets right, and what it costs",
        f"\n{description()}\n",
        f"The train set of examples/images/train.py; {SAMPLES} samples and {took:.1f} s a trace.\n",
        "## The sum of the operators against the untraced time of a sample, in turns\n",
        *accuracy(pipelines),
        f"\n## What a sample takes while it is traced, medians of {TURNS - 1} passes in turns\n",
        *price(dataset),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
