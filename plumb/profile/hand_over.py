"""What it takes to fill shared memory for a batch in a worker, and to give it back in the main process."""

from __future__ import annotations

import time

import torch

_TURNS = 5
_BYTES_AT_LEAST = 2**20
_FRESH_BYTES = 2**22


def drop_seconds_per_byte(batch_bytes: float) -> float:
    """CPU seconds per byte to let go of shared memory that was written; of several turns the quickest.

    A batch lies in memory that its worker filled, and whose last user, the main process, gives it back page by page.
    """
    size = max(int(batch_bytes), _BYTES_AT_LEAST)
    return min(_drop_seconds(size) for _ in range(_TURNS)) / size


def fresh_seconds_per_byte() -> float:
    """CPU seconds per byte by which shared memory is written sooner when it was touched before; of several turns the
    least.

    That is the same for each byte, so little is taken: a batch's worth may be more than shared memory holds.
    """
    return max(0.0, min(_fresh_seconds(_FRESH_BYTES) for _ in range(_TURNS))) / _FRESH_BYTES


def _fresh_seconds(size: int) -> float:
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    shared = torch.empty(0, dtype=torch.uint8).set_(storage)
    taken = []
    for _ in range(2):
        begin = time.thread_time()
        shared.fill_(1)
        taken.append(time.thread_time() - begin)
    return taken[0] - taken[1]


def _drop_seconds(size: int) -> float:
    shared = torch.empty(size, dtype=torch.uint8)
    shared.share_memory_()  # type: ignore[no-untyped-call]
    shared.fill_(1)
    begin = time.thread_time()
    del shared
    return time.thread_time() - begin
