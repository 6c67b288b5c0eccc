"""What it costs to guard a loader that runs on a plan: its rate with all guards over its rate without, in pairs.

    python -m analysis.guards [--quick] [--only PIPELINE...]

Each of the ten pipelines is tuned, and read by two loaders on the same plan, one of which has no guards. Their windows
are adjacent pairs. A second table shows how long an epoch takes to start over a dataset of a million small objects.
Prints and writes `analysis/results/guards.md`.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from analysis import field, results
from analysis.results import Effort, publish, say, table
from analysis.tuned import tune_loader
from plumb.config import Config, Rewrites
from plumb.loop import Endless
from plumb.plan import LoaderPlan, Measured, Prediction
from plumb.runtime.allocator import reusing
from plumb.runtime.loader import current_config
from plumb.runtime.planned import Planned
from plumb.search.paired import PairedRatio, paired_ratio

FULL, QUICK = Effort(9, 0.8, 10.0), Effort(3, 0.3, 6.0)
OBJECTS, EPOCHS = 1_000_000, 7
# A pipeline for which plumb finds nothing better is guarded all the same, on what a plan may well have.
USUAL = Config(2, 2, persistent_workers=True)


@dataclass(frozen=True)
class Row:
    """One pipeline: the configuration, samples per second without guards, and the ratio with them."""

    pipeline: str
    config: Config
    unguarded_samples_per_second: float
    ratio: PairedRatio


def planned_iterators(loader: DataLoader[Any], config: Config, rewrites: Rewrites, is_guarded: bool) -> Iterator[Any]:
    """The batches of a loader on a plan, epoch after epoch."""
    own = current_config(loader)
    rate = 1.0, (1.0, 1.0)
    entry = LoaderPlan(
        "loader",
        "guards.py:1",
        type(loader.dataset).__name__,
        loader.batch_size,
        Measured(own, *rate),
        Measured(config, *rate),
        Prediction(1.0, "cpu", {}),
        rewrites=rewrites,
    )
    planned = Planned(loader, entry, own, is_guarded=is_guarded)
    return Endless(None, lambda: planned.start_unseen(loader, loader.__iter__, say))


def window(batches: Iterator[Any], config: Config, samples_per_batch: float, seconds: float) -> float:
    """Samples per second over a window, after what may have been read ahead."""
    with reusing(config.allocator_reuse):
        for _ in range(config.batches_in_flight + 1):
            next(batches)
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds or not count:
            next(batches)
            count += 1
        return count * samples_per_batch / (time.perf_counter() - begun)


def row(name: str, effort: Effort, is_quick: bool) -> Row:
    """The cost of the guards on one pipeline."""
    with field.opened(name, is_quick) as pipeline:
        tuned = tune_loader(pipeline.loader, effort.budget_seconds)
        own = current_config(pipeline.loader)
        config = tuned.config if tuned.config != own else USUAL
        if pipeline.is_iterable:
            config = dataclasses.replace(config, num_workers=own.num_workers, prefetch_factor=own.prefetch_factor)
        say(f"{name}: {config}")
        sides = [planned_iterators(pipeline.loader, config, tuned.rewrites, guarded) for guarded in (False, True)]
        pairs = []
        for turn in range(effort.turns + 1):
            order = (0, 1) if turn % 2 == 0 else (1, 0)
            rates = {side: window(sides[side], config, pipeline.batch_size, effort.window_seconds) for side in order}
            # The first turn starts workers and fills stores.
            pairs += [(rates[0], rates[1])] if turn else []
        return Row(pipeline.name, config, median(rate for rate, _ in pairs), paired_ratio(pairs))


class Item:
    """A small object, as annotations are."""

    def __init__(self, number: int) -> None:
        self.number, self.label = number, number % 7


class Items(Dataset[Any]):
    """A million small objects in a list."""

    def __init__(self) -> None:
        self.items = [Item(number) for number in range(OBJECTS)]

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        return torch.tensor(self.items[index].label)


def start_seconds(start: Callable[[], Iterator[Any]]) -> list[float]:
    """From `iter` to the first batch, for some epochs; all of each is read."""
    found = []
    for _ in range(EPOCHS):
        begun = time.perf_counter()
        batches = start()
        next(batches)
        found.append(time.perf_counter() - begun)
        for _ in batches:
            pass
    return found


def starts() -> list[list[str]]:
    """Torch's loader and one on a plan with the same workers: how long an epoch over `Items` takes to start."""
    items = Items()
    rows = []
    for config in (Config(), USUAL):
        theirs = DataLoader(items, batch_size=8, shuffle=True, **config.loader_arguments())
        plain = start_seconds(theirs.__iter__)
        loader = DataLoader(items, batch_size=8, shuffle=True)
        planned = dataclasses.replace(config, fetch_threads=2) if config == Config() else config
        entry = LoaderPlan(
            "loader", "guards.py:1", "Items", 8, Measured(Config(), 1.0, (1.0, 1.0)),
            Measured(planned, 1.0, (1.0, 1.0)), Prediction(1.0, "cpu", {}),
        )  # fmt: skip
        guarded = Planned(loader, entry, Config())
        ours = start_seconds(lambda run=guarded, loader=loader: run.start_unseen(loader, loader.__iter__, say))
        rows.append(
            [str(planned)]
            + [f"{seconds[0] * 1e3:,.0f} ms, then {median(seconds[1:]) * 1e3:,.1f} ms" for seconds in (plain, ours)]
        )
    return rows


def main() -> None:
    """Measures, and writes what came of it."""
    parser = results.arguments(__doc__, FULL)
    parser.add_argument("--only", nargs="+", choices=field.NAMES, default=field.NAMES)
    asked = parser.parse_args()
    effort = QUICK if asked.quick else FULL
    rows = [row(name, effort, asked.quick) for name in asked.only]
    ratios = [each.ratio.ratio for each in rows]
    cells = [
        [
            each.pipeline,
            str(each.config),
            f"{each.unguarded_samples_per_second:,.0f}",
            "{:.3f} [{:.3f}, {:.3f}]".format(each.ratio.ratio, *each.ratio.interval),
        ]
        for each in rows
    ]
    lines = [
        f"Rates with guards over rates without, by {effort.turns} pairs of windows of {effort.window_seconds:g} s; the "
        "intervals hold with 95 % confidence. "
        f"In the median {median(ratios):.3f}, at the least {min(ratios):.3f}.",
        "",
        *table(["pipeline", "configuration", "samples/s without guards", "with guards"], cells),
        "",
        f"From `iter` to the first batch over a dataset of {OBJECTS:,} small objects, in the first epoch, and in the "
        f"median of the {EPOCHS - 1} after it:",
        "",
        *table(["on the plan", "torch's loader", "on a plan, guarded"], starts()),
    ]
    publish("guards", "What guards cost", lines, keep=not asked.quick and len(rows) == len(field.NAMES))


if __name__ == "__main__":
    os.environ.pop("PLUMB_CHECK", None)
    main()
