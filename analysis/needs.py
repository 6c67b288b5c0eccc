"""Memory, shared memory and open files that configurations were predicted to take, and the most that they took.

    python -m analysis.needs [--quick] [--only PIPELINE...]

Each configuration runs for a while as in training, its store filled before, and is looked at ten times a second: the
pages of all its processes, the space in shared memory, and the open files of the main process. What the script held
before counts on both sides. Prints and writes `analysis/results/needs.md`.
"""

import contextlib
import gc
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from analysis import knobs, results
from analysis.footprint import proportional_bytes, tree
from analysis.measuring import stream_of
from analysis.pipelines import made
from analysis.pipelines.pipeline import Pipeline
from analysis.results import Effort, publish, say, table
from analysis.tuned import Tuned, tune_loader
from plumb.core.config import Config
from plumb.core.units import format_bytes
from plumb.model import constraints
from plumb.tuning.measure.throughput import MeasuredLoader

FULL, QUICK = Effort(1, 3.0, 20.0), Effort(1, 0.5, 4.0)
PIPELINES = ("photos", "large_batches", "padding", "decoded", "spectrograms", "tiny")
CONFIGURATIONS_AT_MOST, QUICK_AT_MOST = 14, 3
_EVERY_SECONDS, _PATIENCE_SECONDS = 0.1, 120.0
_NAMES = ("memory", "shared memory", "open files")
_ALLOWED = 1.10


@dataclass(frozen=True)
class InUse:
    """Resources in use at one moment, or at most over many: bytes, bytes, and a count."""

    memory: float
    shared_memory: float
    open_files: float

    def at_most(self, other: "InUse") -> "InUse":
        """Return the larger of each."""
        return InUse(*map(max, vars(self).values(), vars(other).values()))


@dataclass(frozen=True)
class Comparison:
    """One configuration's needs, predicted and measured, by the name of the limit."""

    pipeline: str
    config: Config
    predicted: dict[str, float]
    measured: dict[str, float]

    def excess(self, name: str) -> float:
        """Return the share by which more was taken than predicted; negative if less was."""
        return self.measured[name] / self.predicted[name] - 1 if self.predicted[name] else 0.0


def in_use() -> InUse:
    """Pages of this process and all that it started, space in shared memory, mapped or not, and open files."""
    shared = os.statvfs("/dev/shm")
    in_shared_memory = float((shared.f_blocks - shared.f_bfree) * shared.f_frsize)
    pages = sum(proportional_bytes(pid, "Pss_Anon") for pid in tree(os.getpid()))
    return InUse(pages + in_shared_memory, in_shared_memory, float(len(os.listdir("/proc/self/fd"))))


@contextlib.contextmanager
def peak() -> Iterator[list[InUse]]:
    """Yield a list whose one element is the most that was in use since the context was entered."""
    most, ended = [in_use()], threading.Event()

    def watch() -> None:
        while not ended.wait(_EVERY_SECONDS):
            most[0] = most[0].at_most(in_use())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def compare(pipeline: Pipeline, effort: Effort, at_most: int) -> list[Comparison]:
    """Return the needs of several configurations of one pipeline."""
    tuned = tune_loader(pipeline.loader, effort.budget_seconds, samples_per_batch=float(pipeline.batch_size))
    configs = [config for config in knobs.varied(pipeline, tuned.space, at_most) if config.num_workers <= 4]
    found = []
    for config in dict.fromkeys([*configs, tuned.config]):
        gc.collect()
        before = in_use()
        tuned.fill([config])
        most = _taken(tuned, pipeline, config, effort.window_seconds)
        tuned.filled.clear()
        needs = constraints.needs(tuned.choice.inputs, config, config.num_workers, config.batches_in_flight)
        held = {
            "memory": tuned.choice.inputs.footprint.main_bytes - before.memory,
            "shared memory": -before.shared_memory,
            "open files": tuned.choice.inputs.footprint.open_files - before.open_files,
        }
        measured = dict(zip(_NAMES, vars(most).values(), strict=True))
        found.append(
            Comparison(
                pipeline.name,
                config,
                {name: float(needs[name]) for name in _NAMES},
                {name: measured[name] + held[name] for name in _NAMES},
            )
        )
    return found


def _taken(tuned: Tuned, pipeline: Pipeline, config: Config, seconds: float) -> InUse:
    deadline = time.perf_counter() + _PATIENCE_SECONDS
    with peak() as most:
        feed = MeasuredLoader(
            config,
            lambda indices: tuned.make(config, indices),
            stream_of(pipeline.loader),
            pipeline.batch_size,
            deadline,
        )
        try:
            feed.window(seconds)
        finally:
            feed.close()
    return most[0]


def rows(comparisons: list[Comparison]) -> list[list[str]]:
    """One row for each comparison: predicted, measured, and by how much more."""
    return [
        [
            comparison.pipeline,
            str(comparison.config),
            *(
                f"{_said(name, comparison.predicted[name])}, {_said(name, comparison.measured[name])} "
                f"({comparison.excess(name):+.0%})"
                for name in _NAMES
            ),
        ]
        for comparison in comparisons
    ]


def _said(name: str, amount: float) -> str:
    return f"{amount:,.0f}" if name == "open files" else format_bytes(max(0.0, amount))


def main() -> None:
    """Print the results and write them."""
    parser = results.arguments(__doc__, FULL)
    results.add_pipelines(parser, PIPELINES)
    asked = parser.parse_args()
    effort, at_most = (QUICK, QUICK_AT_MOST) if asked.quick else (FULL, CONFIGURATIONS_AT_MOST)
    comparisons: list[Comparison] = []
    for number, pipeline in enumerate(made(asked.only), 1):
        say(f"needs: {pipeline.name}, {number} of {len(asked.only)}")
        comparisons += compare(pipeline, effort, at_most)
    over = [c for c in comparisons if any(c.excess(name) > _ALLOWED - 1 for name in _NAMES)]
    most = {name: max(comparison.excess(name) for comparison in comparisons) for name in _NAMES}
    lines = [
        f"{len(comparisons)} configurations, each for {effort.window_seconds:g} s of steady state. "
        f"{len(over)} took more than {_ALLOWED:.0%} of what was predicted; the most beyond a prediction: "
        + ", ".join(f"{name} {share:+.0%}" for name, share in most.items())
        + ".",
        "",
        *table(["pipeline", "configuration", *(f"{name}: predicted, taken" for name in _NAMES)], rows(comparisons)),
    ]
    publish("needs", "What configurations take of the host", lines, keep=not asked.quick and asked.only == PIPELINES)


if __name__ == "__main__":
    main()
