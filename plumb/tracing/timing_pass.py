"""Cost of each operator: wall, CPU and wait time, on samples that are only timed.

A thread that was never blocked did not wait: if no voluntary context switch was counted during a call, the difference
between its wall and its CPU time was taken by other processes on the host, and is left out of both. Nor did it wait
while other threads of this process computed for it, as a library's own do, such as those of tokenizers.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles
from typing import Any, TypeVar

from plumb.instrument.function_rewriter import Rewriter
from plumb.instrument.recorder import EVERYTHING, SAMPLE, Node, Recorder, Selection

try:
    import resource

    THREAD: int | None = getattr(resource, "RUSAGE_THREAD", None)
except ImportError:
    THREAD = None

OVERHEAD_CALLS = 50
SLOWEST_SHARE = 0.03

T = TypeVar("T")


def _voluntary_switches() -> int | None:
    """Return how often this thread gave up its core to wait; None if the host doesn't count that."""
    return None if THREAD is None else resource.getrusage(THREAD).ru_nvcsw


@dataclass
class Clock:
    """Time spent, in nanoseconds, and the number of calls."""

    cpu: int = 0
    wait: int = 0
    calls: int = 0

    @property
    def wall_seconds(self) -> float:
        return (self.cpu + self.wait) / 1e9


@dataclass(frozen=True)
class Cost:
    """Cost of one sample at an operator.

    Means are over all samples, so that operators add up; a sample that doesn't visit the operator counts as zero. The
    median and the quartiles are over the samples that visit it. If samples are loaded in groups, a visit is a group's.
    """

    wall_seconds: float
    cpu_seconds: float
    wait_seconds: float
    median_seconds: float
    quartile_seconds: tuple[float, float]
    visit_ratio: float
    calls_per_sample: float


class Timing(Recorder):
    """Recorder that times every node without the recorded calls inside it. It keeps no values alive.

    `overhead_seconds` is the cost of recording a call; it is subtracted from the time of the surrounding call.
    """

    def __init__(
        self, root: Node, rewriter: Rewriter, selection: Selection = EVERYTHING, overhead_seconds: float = 0.0
    ) -> None:
        super().__init__(root, rewriter, selection)
        self._overhead = int(overhead_seconds * 1e9)
        self._clocks: dict[Node, Clock] = defaultdict(Clock)
        self._inner = Clock()

    def take(self) -> dict[Node, Clock]:
        """Return the clocks since the last call and start new ones; to be called after each sample."""
        clocks, self._clocks = self._clocks, defaultdict(Clock)
        return dict(clocks)

    def run(
        self, node: Node, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], leaf: bool
    ) -> Any:
        outer, self._inner = self._inner, Clock()
        spent = Clock()
        try:
            return timed(spent, function, *arguments, **keywords)
        finally:
            clock, inner = self._clocks[node], self._inner
            clock.cpu += max(0, spent.cpu - inner.cpu)
            clock.wait += max(0, spent.wait - inner.wait)
            clock.calls += spent.calls
            outer.cpu += spent.cpu + self._overhead
            outer.wait += spent.wait
            self._inner = outer


def timed(clock: Clock, function: Any, /, *arguments: Any, **keywords: Any) -> Any:
    """Call `function`, add its time to `clock`, and count the call if it returns."""
    switches = _voluntary_switches()
    all_cpu_start, cpu_start = time.process_time_ns(), time.thread_time_ns()
    start = time.perf_counter_ns()
    try:
        result = function(*arguments, **keywords)
        clock.calls += 1
        return result
    finally:
        wall = time.perf_counter_ns() - start
        cpu = min(wall, time.thread_time_ns() - cpu_start)
        if switches is None or switches != _voluntary_switches():
            cpu = max(cpu, min(wall, time.process_time_ns() - all_cpu_start))
            clock.wait += wall - cpu
        clock.cpu += cpu


def recording_overhead_seconds() -> float:
    """Return the seconds that recording a call adds to the code around it, on this host now."""
    timing = Timing(Node(None, SAMPLE, "", ""), Rewriter())
    with timing:
        timing.enter(SAMPLE, abs, 1)
        clocks = [time_call(partial(timing.enter, SAMPLE, abs, 1))[1] for _ in range(OVERHEAD_CALLS)]
    return median(clock.wall_seconds for clock in clocks)


def time_call(function: Callable[[], Any]) -> tuple[Any, Clock]:
    """Return the result of `function` and its time, measured in the same way as operators' time."""
    clock = Clock()
    return timed(clock, function), clock


def costs(units: list[dict[Node, Clock]], unit_samples: int) -> dict[Node, Cost]:
    """Return the cost of each node per sample, from the clocks of units of `unit_samples` samples each.

    The few slowest units are left out, as is done for untraced samples.
    """
    kept = without_slowest(units, lambda clocks: sum(clock.wall_seconds for clock in clocks.values()))
    nodes = {node: None for clocks in kept for node in clocks}
    return {node: _cost([clocks.get(node) for clocks in kept], unit_samples) for node in nodes}


def without_slowest(timings: list[T], seconds: Callable[[T], float]) -> list[T]:
    """Return the timings without the slowest few, in order, so that a stall of the host doesn't distort a mean."""
    slowest = sorted(range(len(timings)), key=lambda place: seconds(timings[place]))
    kept = sorted(slowest[: len(timings) - int(SLOWEST_SHARE * len(timings))])
    return [timings[place] for place in kept]


def _cost(clocks: list[Clock | None], unit_samples: int) -> Cost:
    visited = [clock for clock in clocks if clock is not None]
    walls = [clock.wall_seconds / unit_samples for clock in visited]
    lower, middle, upper = quantiles(walls, method="inclusive") if len(walls) > 1 else walls * 3
    samples = len(clocks) * unit_samples
    return Cost(
        wall_seconds=sum(walls) / len(clocks),
        cpu_seconds=sum(clock.cpu for clock in visited) / 1e9 / samples,
        wait_seconds=sum(clock.wait for clock in visited) / 1e9 / samples,
        median_seconds=middle,
        quartile_seconds=(lower, upper),
        visit_ratio=len(visited) / len(clocks),
        calls_per_sample=sum(clock.calls for clock in visited) / samples,
    )
