"""Time for which a training step waits for other ranks: its thread is blocked in collectives.

Only CPU training shows it: a GPU waits for other ranks by itself while the thread goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

from plumb.host.run_queue import queued_seconds
from plumb.tracing.device.profile import uses_accelerator


class CollectiveWait:
    """Seconds for which threads were blocked in collectives, or in a backward pass that contains some."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._is_inside = False

    def watched(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `work` to add up the time in which it neither computes nor queues for a CPU."""

        @wraps(work)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._is_inside:
                return work(*args, **kwargs)
            self._is_inside = True
            begin = _moment()
            try:
                return work(*args, **kwargs)
            finally:
                wall, busy = (now - then for now, then in zip(_moment(), begin, strict=True))
                self.seconds += max(0.0, wall - busy)
                self._is_inside = False

        return watched


@contextmanager
def collective_waits(ranks: int) -> Iterator[CollectiveWait]:
    """Add up the time that steps wait for other ranks inside the context; 0 if there are fewer than two ranks.

    All such waiting happens in torch's collectives. A backward pass waits too, because `DistributedDataParallel` runs
    its own collectives in it.
    """
    found = CollectiveWait()
    if ranks < 2 or not torch.distributed.is_available():
        yield found
        return
    work, backward = torch.distributed.Work, torch.autograd.backward
    wait = work.wait
    work.wait = found.watched(wait)  # type: ignore[method-assign]
    torch.autograd.backward = found.watched(backward)
    try:
        yield found
    finally:
        work.wait, torch.autograd.backward = wait, backward  # type: ignore[method-assign]


def shows_collective_waits() -> bool:
    """Return whether waiting for other ranks shows in this process's threads."""
    return not uses_accelerator()


def _moment() -> tuple[float, float]:
    """Return the wall clock, and the seconds that this thread has computed or queued so far."""
    return time.perf_counter(), time.thread_time() + queued_seconds()
