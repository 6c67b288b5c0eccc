"""Share of an operator's time in which it holds the interpreter's lock.

A second thread sleeps briefly in a loop and notes when it runs, for which it needs the lock. While an operator holds
the lock it can't run; while an operator computes or waits without the lock it can. So the user's own calls are observed
as they run, and none has to be repeated on another thread, where it might not be safe.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from types import TracebackType
from typing import Any

from plumb.instrument.function_rewriter import Rewriter
from plumb.instrument.recorder import EVERYTHING, Node, Recorder, Selection

NAP_SECONDS = 1e-4
CALIBRATION_SECONDS = 0.02
ENOUGH_TICKS = 20
INTERRUPTED = 3.0


class LockWatch(Recorder):
    """Context manager that records when each operator runs and when a second thread could run meanwhile."""

    def __init__(self, root: Node, rewriter: Rewriter, selection: Selection = EVERYTHING) -> None:
        super().__init__(root, rewriter, selection)
        self._calls: dict[Node, list[tuple[int, int]]] = defaultdict(list)
        self._ticks: list[int] = []
        self._stopped = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="plumb-lock-watch", daemon=True)
        self._period = 0.0

    def __enter__(self) -> None:
        super().__enter__()
        self._ticker.start()
        time.sleep(CALIBRATION_SECONDS)
        gaps = [later - earlier for earlier, later in zip(self._ticks, self._ticks[1:], strict=False)]
        self._period = median(gaps) if gaps else CALIBRATION_SECONDS * 1e9

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._ticker.join()
        super().__exit__(kind, error, trace)

    def run(
        self, node: Node, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], leaf: bool
    ) -> Any:
        start = time.perf_counter_ns()
        try:
            return function(*arguments, **keywords)
        finally:
            self._calls[node].append((start, time.perf_counter_ns()))

    def free_share(self, node: Node) -> float | None:
        """Return the share (0 to 1) of a node's time in which the lock was free; None if it ran too briefly.

        Calls far longer than usual don't count: the host was busy with something else, and neither thread ran.
        """
        calls = self._calls.get(node, [])
        usual = median(end - start for start, end in calls) if calls else 0.0
        calls = [(start, end) for start, end in calls if end - start <= INTERRUPTED * usual]
        expected = sum(end - start for start, end in calls) / self._period
        if expected < ENOUGH_TICKS:
            return None
        seen = sum(bisect_left(self._ticks, end) - bisect_left(self._ticks, start) for start, end in calls)
        return min(1.0, seen / expected)

    def _tick(self) -> None:
        while not self._stopped.is_set():
            time.sleep(NAP_SECONDS)
            self._ticks.append(time.perf_counter_ns())
