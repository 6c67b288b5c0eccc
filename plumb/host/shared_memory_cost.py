"""CPU cost of filling new or used shared memory for a batch in a worker, and of releasing it in the main process."""

from __future__ import annotations

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

import torch

from plumb.host.threads import one_torch_thread, thread_seconds

_TURNS = 5
_BYTES_AT_LEAST = 2**20
_FRESH_BYTES, _COPIED_BYTES = 2**20, 2**25
# Number of handovers of fresh memory, and how many pieces are still unreleased at a time.
_FRESH_TURNS, _AHEAD = 16, 2
# A loader usually has this many buffers; fewer suffice if they exceed the caches anyway.
_BUFFERS, _BEYOND_CACHES = 8, 2**26


def drop_seconds_per_byte(batch_bytes: float) -> float:
    """Return the CPU seconds per byte to release shared memory that was written; the quickest of several turns.

    A batch lies in memory that its worker filled, and the main process, as its last user, frees it page by page.
    """
    size = max(int(batch_bytes), _BYTES_AT_LEAST)
    return min(_drop_seconds(size) for _ in range(_TURNS)) / size


def fresh_seconds_per_byte() -> float:
    """Return a worker's extra CPU seconds per byte to hand over a batch in fresh instead of reused shared memory.

    They go to allocating the memory, sharing it and closing it. The cost per byte doesn't depend on the size, so little
    memory is used: a whole batch may exceed the available shared memory.
    """
    source, used = (torch.ones(_FRESH_BYTES, dtype=torch.uint8) for _ in range(2))
    handed: list[int] = []
    # The main process frees memory at the same time, and both need the kernel's lists of free pages.
    with one_torch_thread(), ThreadPoolExecutor(1) as main:
        fresh = []
        given_back: Future[None] | None = None
        for _ in range(_FRESH_TURNS):
            begin = time.thread_time()
            handed.append(_hand_over(source))
            fresh.append(time.thread_time() - begin)
            if len(handed) > _AHEAD:
                if given_back is not None:
                    given_back.result()
                given_back = main.submit(os.close, handed.pop(0))
        again = median(_copy_seconds(source, used) for _ in range(_TURNS))
    for descriptor in handed:
        os.close(descriptor)
    return max(0.0, median(fresh) - again) / _FRESH_BYTES


@dataclass(frozen=True)
class CopySeconds:
    """CPU seconds per byte to copy a batch into used memory that is in the caches, and that isn't."""

    cached: float
    uncached: float


def copy_seconds_per_byte(batch_bytes: float) -> CopySeconds:
    """Return the CPU seconds per byte to copy a batch of this size; medians of several turns.

    Buffers are used in rotation, so when a buffer's turn comes, the others have displaced it from the caches.
    """
    size = min(max(int(batch_bytes), _BYTES_AT_LEAST), _COPIED_BYTES)
    count = min(_BUFFERS, max(2, _BEYOND_CACHES // size))
    source, *targets = (torch.ones(size, dtype=torch.uint8) for _ in range(1 + count))
    with one_torch_thread():
        cached = median(_copy_seconds(source, targets[0]) for _ in range(_TURNS))
        uncached = median(_copy_seconds(source, target) for target in targets)
    return CopySeconds(cached / size, max(cached, uncached) / size)


def _copy_seconds(source: torch.Tensor, target: torch.Tensor) -> float:
    return thread_seconds(lambda: target.copy_(source))


def _hand_over(source: torch.Tensor) -> int:
    """Return a descriptor of new shared memory with the bytes of `source`, already unmapped in this process."""
    storage = torch.UntypedStorage._new_using_fd_cpu(source.nbytes)
    torch.empty(0, dtype=torch.uint8).set_(storage).copy_(source)
    return os.dup(storage._share_fd_cpu_()[0])


def _drop_seconds(size: int) -> float:
    shared = torch.empty(size, dtype=torch.uint8)
    shared.share_memory_()  # type: ignore[no-untyped-call]
    shared.fill_(1)
    begin = time.thread_time()
    del shared
    return time.thread_time() - begin
