"""Cost of guarding a loader that runs on a plan: its rate with all guards over its rate without, by turns.

    python -m analysis.guards [--quick] [--only PIPELINE...]

Each of the ten pipelines is tuned, and read by two loaders on the same plan, one of which has no guards. Both read the
same batches in windows that are adjacent pairs, and so many CPU seconds do they take, workers and children included. A
second table shows how long an epoch takes to start over large datasets. Prints and writes `analysis/results/guards.md`.
"""

import contextlib
import dataclasses
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader, Dataset

from analysis import field, results
from analysis.measuring import share_by_turns
from analysis.results import Effort, publish, say, table
from analysis.tuned import tune_loader
from plumb.core.config import Config, Rewrites
from plumb.core.plan import LoaderResult, Measured, Prediction, Rate
from plumb.host.malloc import malloc_reuse
from plumb.runtime.checks.check_rate import CheckTimes
from plumb.runtime.guards import state_guard
from plumb.runtime.loader import current_config
from plumb.runtime.planned_loader import PlannedLoader
from plumb.tuning.measure.replayed_batches import RestartingIterator

FULL, QUICK = Effort(15, 1.0, 8.0), Effort(3, 0.3, 4.0)
# A window has as many batches as the first one of its time, and this many at the least.
FEWEST_BATCHES, SHORT_EPOCH = 4, 64
# A pipeline for which plumb finds nothing better is guarded all the same, on what a plan may well have.
USUAL = Config(2, 2, persistent_workers=True)
OBJECTS, TENSORS, ARRAY_BYTES = 1_000_000, 50_000, 100_000_000
STARTS, EPOCHS = 3, 4
_IDLE_SECONDS, _LONGEST_SECONDS = 0.02, 20.0


@dataclass(frozen=True)
class Spent:
    """Cost of a window: seconds for its batches, and CPU seconds for these and for those before them."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Row:
    """One pipeline: samples per second without guards, and with them the share of that, and of CPU seconds."""

    pipeline: str
    config: Config
    unguarded_samples_per_second: float
    rate: Rate
    cpu_seconds: Rate


class PausedClock:
    """A clock for guards that stands still while another loader is measured: they act once in a while."""

    def __init__(self) -> None:
        self._paused_seconds = 0.0
        self._paused_at: float | None = None

    def perf_counter(self) -> float:
        """Return the seconds for which it has run."""
        now = time.perf_counter() if self._paused_at is None else self._paused_at
        return now - self._paused_seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still inside."""
        self._paused_at = time.perf_counter()
        yield
        self._paused_seconds += time.perf_counter() - self._paused_at
        self._paused_at = None

    @contextlib.contextmanager
    def in_guards(self) -> Iterator[None]:
        """Let the guards that are made or called inside read it."""
        clock = SimpleNamespace(**{**vars(time), "perf_counter": self.perf_counter})
        with (
            mock.patch.object(state_guard, "time", clock),
            mock.patch.object(CheckTimes.__init__, "__defaults__", (self.perf_counter,)),
        ):
            yield


def planned(loader: DataLoader[Any], config: Config, rewrites: Rewrites, is_guarded: bool) -> Callable[[], Any]:
    """Return what starts the epochs of a loader on a plan."""
    own = current_config(loader)
    rate = 1.0, (1.0, 1.0)
    entry = LoaderResult(
        "loader",
        "guards.py:1",
        type(loader.dataset).__name__,
        loader.batch_size,
        Measured(own, *rate),
        Measured(config, *rate),
        Prediction(1.0, "cpu", {}),
        rewrites=rewrites,
    )
    run = PlannedLoader(loader, entry, own, is_guarded=is_guarded)
    return lambda: run.start_unseen(loader, loader.__iter__, say)


def cpu_seconds() -> float:
    """CPU seconds of this process, and of its children, those that have ended among them."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + _cpu_seconds_of(_children())


def _children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _cpu_seconds_of(processes: list[psutil.Process]) -> float:
    found = 0.0
    for process in processes:
        with contextlib.suppress(OSError):
            # The clock of another process: see clock_getcpuclockid(3).
            found += time.clock_gettime((~process.pid << 3) | 2)
    return found


def _is_busy(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)
    except psutil.Error:
        return False


def wait_until_idle() -> None:
    """Wait until no child computes: then, all that may be read ahead has been."""
    end_by, children, quiet = time.perf_counter() + _LONGEST_SECONDS, _children(), 0
    while quiet < 3 and time.perf_counter() < end_by:
        before = _cpu_seconds_of(children)
        time.sleep(_IDLE_SECONDS)
        has_computed = _cpu_seconds_of(children) - before > 0.1 * _IDLE_SECONDS
        quiet = 0 if has_computed or any(map(_is_busy, children)) else quiet + 1


def window(batches: Iterator[Any], config: Config, count: int) -> Spent:
    """Read `count` batches, after those that have been read ahead; begin and end with idle workers."""
    before = cpu_seconds()
    with malloc_reuse(config.allocator_reuse):
        for _ in range(config.batches_in_flight + 1):
            next(batches)
        begun = time.perf_counter()
        for _ in range(count):
            next(batches)
        seconds = time.perf_counter() - begun
    wait_until_idle()
    return Spent(seconds, cpu_seconds() - before)


def batches_within(batches: Iterator[Any], config: Config, seconds: float) -> int:
    """Count the batches that a window of some seconds gives."""
    for _ in range(config.batches_in_flight + 1):
        next(batches)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        next(batches)
        count += 1
    return max(count, FEWEST_BATCHES)


def row(name: str, effort: Effort, is_quick: bool) -> Row:
    """Return the cost of the guards on one pipeline."""
    with field.opened(name, is_quick) as pipeline:
        loader = pipeline.loader
        tuned = tune_loader(loader, effort.budget_seconds)
        own = current_config(loader)
        config = tuned.config if tuned.config != own else USUAL
        if pipeline.is_iterable:
            config = dataclasses.replace(config, num_workers=own.num_workers, prefetch_factor=own.prefetch_factor)
        say(f"{name}: {config}")
        clock = PausedClock()
        with clock.in_guards():
            sides = [
                RestartingIterator(None, planned(loader, config, tuned.rewrites, guarded)) for guarded in (False, True)
            ]
            # The first batches start workers, are checked, and fill stores; the second epoch's first is checked, too.
            has_an_epoch = config.cache or len(loader) <= SHORT_EPOCH
            warm = len(loader) + 1 if has_an_epoch else FEWEST_BATCHES
            for batches in sides:
                window(batches, config, warm)
            count = batches_within(sides[0], config, effort.window_seconds)
            with clock.paused():
                wait_until_idle()
            turns = [_turn(sides, config, count, clock, number % 2 == 1) for number in range(effort.turns)]
    unguarded, guarded = ([turn[side] for turn in turns] for side in (0, 1))
    return Row(
        pipeline.name,
        config,
        count * pipeline.batch_size / median(each.seconds for each in unguarded),
        share_by_turns([each.seconds for each in unguarded], [each.seconds for each in guarded]),
        share_by_turns([each.cpu_seconds for each in guarded], [each.cpu_seconds for each in unguarded]),
    )


def _turn(
    sides: list[Iterator[Any]], config: Config, count: int, clock: PausedClock, guarded_first: bool
) -> tuple[Spent, Spent]:
    found = {}
    for side in (1, 0) if guarded_first else (0, 1):
        with contextlib.nullcontext() if side else clock.paused():
            found[side] = window(sides[side], config, count)
    return found[0], found[1]


class Item:
    """A small object, as annotations are."""

    def __init__(self, number: int) -> None:
        self.number, self.label = number, number % 7


class Items(Dataset[Any]):
    """A dataset that holds much, of which its samples read little."""

    def __init__(self, items: Any) -> None:
        self.items = items
        self._keys = list(items)[:64] if isinstance(items, dict) else range(64)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Any:
        return len(repr(self.items[self._keys[index]]))


LARGE: dict[str, Callable[[], Any]] = {
    f"a list of {OBJECTS:,} small objects": lambda: [Item(number) for number in range(OBJECTS)],
    f"a list of {OBJECTS:,} dictionaries": lambda: [{"id": number, "label": number % 7} for number in range(OBJECTS)],
    f"a list of {OBJECTS:,} pairs of a path and a class": lambda: [_pair(number) for number in range(OBJECTS)],
    f"a dictionary of {OBJECTS:,} such pairs": lambda: {str(number): _pair(number) for number in range(OBJECTS)},
    f"a list of {OBJECTS:,} texts": lambda: [_pair(number)[0] for number in range(OBJECTS)],
    f"a list of {TENSORS:,} tensors": lambda: [torch.tensor([number, number + 1]) for number in range(TENSORS)],
    f"an array of {ARRAY_BYTES / 1e6:.0f} MB": lambda: np.zeros(ARRAY_BYTES // 8),
}


def _pair(number: int) -> tuple[str, int]:
    return f"photos/train/{number % 1000:04}/{number:08}.jpg", number % 1000


def start_seconds(start: Callable[[], Iterator[Any]], epochs: int) -> list[Spent]:
    """Return what it takes from `iter` to the first batch for some epochs, all of which are read."""
    found = []
    for _ in range(epochs):
        wait_until_idle()
        cpu, begun = cpu_seconds(), time.perf_counter()
        batches = start()
        next(batches)
        found.append(Spent(time.perf_counter() - begun, cpu_seconds() - cpu))
        for _ in batches:
            pass
    return found


def starts(repeats: int) -> list[list[str]]:
    """Torch's loader and one on a plan with as many workers: how much longer an epoch takes to start on the plan."""
    rows = []
    for name, make in LARGE.items():
        say(f"starts over {name}")
        dataset = Items(make())
        cells = []
        for own, config in ((Config(), Config(fetch_threads=2)), (USUAL, USUAL)):
            first, later = [], []
            for _ in range(repeats):
                theirs = DataLoader(dataset, batch_size=8, shuffle=True, **own.loader_arguments())
                plain = start_seconds(theirs.__iter__, EPOCHS)
                del theirs
                loader = DataLoader(dataset, batch_size=8, shuffle=True)
                ours = start_seconds(planned(loader, config, Rewrites(), True), EPOCHS)
                first.append((ours[0], plain[0]))
                later += zip(ours[1:], plain[1:], strict=True)
            cells.append(f"{_more(first)}, then {_more(later)}")
        rows.append([name, *cells])
    return rows


def _more(pairs: list[tuple[Spent, Spent]]) -> str:
    wall = median(ours.seconds - plain.seconds for ours, plain in pairs)
    cpu = median(ours.cpu_seconds - plain.cpu_seconds for ours, plain in pairs)
    return f"{wall * 1e3:,.0f} ms ({cpu * 1e3:,.0f} ms of CPU)"


def main() -> None:
    """Measures, and writes what came of it."""
    parser = results.arguments(__doc__, FULL)
    parser.add_argument("--only", nargs="+", choices=field.NAMES, default=field.NAMES)
    asked = parser.parse_args()
    effort = QUICK if asked.quick else FULL
    rows = [row(name, effort, asked.quick) for name in asked.only]
    rates = [each.rate.samples_per_second for each in rows]
    cells = [
        [
            each.pipeline,
            str(each.config),
            f"{each.unguarded_samples_per_second:,.0f}",
            *(
                "{:.3f} [{:.3f}, {:.3f}]".format(it.samples_per_second, *it.interval)
                for it in (each.rate, each.cpu_seconds)
            ),
        ]
        for each in rows
    ]
    lines = [
        f"Rates and CPU seconds with guards over those without, by {effort.turns} pairs of windows of about "
        f"{effort.window_seconds:g} s: the median of the pairs, and a bootstrap interval of 95 % over them. "
        f"The rates are {median(rates):.3f} of those without guards in the median, and {min(rates):.3f} at the least.",
        "",
        *table(["pipeline", "configuration", "samples/s without guards", "rate with guards", "CPU seconds"], cells),
        "",
        "How much longer the time from `iter` to the first batch is than that of torch's loader with as many workers: "
        f"in the first epoch, and in the {EPOCHS - 1} after it; medians over {STARTS} loaders.",
        "",
        *table(["the dataset holds", "without workers", "with two workers"], starts(1 if asked.quick else STARTS)),
    ]
    publish("guards", "What guards cost", lines, keep=not asked.quick and len(rows) == len(field.NAMES))


if __name__ == "__main__":
    os.environ.pop("PLUMB_CHECK", None)
    main()
