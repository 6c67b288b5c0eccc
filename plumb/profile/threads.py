"""Threads as a loader's workers have them: torch's own, and those that read samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Runs torch on one thread, as it runs in a worker, and puts the number back."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def reading_threads(count: int, read: Callable[[Any], Any], ahead: Iterator[Any]) -> Iterator[ThreadPoolExecutor]:
    """So many threads, as a worker has them, that have read what comes first `ahead`: they have opened what is theirs.

    Raises what `read` raises.
    """
    with one_torch_thread(), ThreadPoolExecutor(count) as pool:
        list(pool.map(read, islice(ahead, count)))
        yield pool
