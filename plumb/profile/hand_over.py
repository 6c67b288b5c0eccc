"""What it takes the main process to give back the memory of a batch that a worker made."""

from __future__ import annotations

import time

import torch

_TURNS = 5
_BYTES_AT_LEAST = 2**20


def drop_seconds_per_byte(batch_bytes: float) -> float:
    """CPU seconds per byte to let go of shared memory that was written; of several turns the quickest.

    A batch lies in memory that its worker filled, and whose last user, the main process, gives it back page by page.
    """
    size = max(int(batch_bytes), _BYTES_AT_LEAST)
    return min(_drop_seconds(size) for _ in range(_TURNS)) / size


def _drop_seconds(size: int) -> float:
    shared = torch.empty(size, dtype=torch.uint8)
    shared.share_memory_()  # type: ignore[no-untyped-call]
    shared.fill_(1)
    begin = time.thread_time()
    del shared
    return time.thread_time() - begin
