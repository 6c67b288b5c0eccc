"""What a training step waits for other ranks: the time in which its thread stands still in collectives.

That is told on the CPU alone: a GPU waits for the others by itself, while this thread goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

from plumb.profile.device import uses_accelerator
from plumb.profile.queued import queued_seconds


class Standstill:
    """The seconds in which the threads that call collectives, or a backward pass that hides some, stood still."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._is_inside = False

    def watched(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, with the time in which it neither computes nor stands in the queue for a CPU added up."""

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
def standstill(ranks: int) -> Iterator[Standstill]:
    """Adds up what steps wait for other ranks inside, where there are any: all waiting in torch's collectives.

    A backward pass waits where `DistributedDataParallel` has its own collectives in it.
    """
    found = Standstill()
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


def told_by_steps() -> bool:
    """Whether waiting for other ranks shows in this process' threads."""
    return not uses_accelerator()


def _moment() -> tuple[float, float]:
    """The clock, and what this thread has computed and queued for so far."""
    return time.perf_counter(), time.thread_time() + queued_seconds()
