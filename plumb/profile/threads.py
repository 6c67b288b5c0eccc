"""Threads as a loader's workers have them: torch's own, and those that read samples."""

from __future__ import annotations

import ast
import functools
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any

import torch

# No fork waits longer than this for threads that are in the middle of a sample.
_PATIENCE_SECONDS, _LOOK_SECONDS = 10.0, 0.001


def one_torch_thread() -> AbstractContextManager[None]:
    """Runs torch on one thread, as it runs in a worker, and puts the number back."""
    return torch_threads(1)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run torch on `count` threads, and put the number back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def thread_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this thread for a piece of work, and to let go of what it returns."""
    begin = time.thread_time()
    work()
    return time.thread_time() - begin


def _use_one_torch_thread() -> None:
    # A thread that is asked for its number first has it from then on; else it takes that of others when it computes.
    torch.get_num_threads()
    torch.set_num_threads(1)


_parsing = threading.RLock()


def _parse_by_turns() -> None:
    """Lets only one thread of this process at a time parse Python: `numpy.load` does for each file that it reads.

    Python 3.11 raises SystemError where another thread comes in between, as a finalizer may let it (CPython's issue
    106905).
    """
    if getattr(ast.parse, "is_by_turns", False):
        return
    plainly = ast.parse

    @functools.wraps(plainly)
    def parse(*arguments: Any, **keywords: Any) -> Any:
        with _parsing:
            return plainly(*arguments, **keywords)

    parse.is_by_turns = True  # type: ignore[attr-defined]
    ast.parse = parse


def _renew_lock() -> None:
    global _parsing
    _parsing = threading.RLock()


class ReadingThreads(ThreadPoolExecutor):
    """So many threads that read samples, each with one thread of torch's, as a worker process has.

    A fork waits until none of them is in the middle of a sample, or of ending: what a library holds locked at that
    moment would stay locked in the child for ever. Intel's MKL keeps the memory of its transforms under such a lock,
    and takes it when a thread ends, too. Raises RuntimeError where the host allows no more threads.
    """

    def __init__(self, count: int) -> None:
        _parse_by_turns()
        threads = torch.get_num_threads()
        super().__init__(count, "plumb-fetch", initializer=_use_one_torch_thread)
        self._unfinished = 0
        self._count_lock = threading.Lock()
        together = threading.Barrier(count)

        def begin(_: int) -> int:
            together.wait()
            return threading.get_native_id()

        try:
            _started.append((weakref.ref(self), set(self.map(begin, range(count)))))
        except BaseException:
            together.abort()
            self.shutdown(wait=False)
            raise
        finally:
            # What a thread sets is also what threads that are yet to come begin with.
            torch.set_num_threads(threads)

    @property
    def is_idle(self) -> bool:
        """Whether no thread has anything to do."""
        return self._unfinished == 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As `ThreadPoolExecutor` does."""
        self._count(+1)
        try:
            future = super().submit(fn, *args, **kwargs)
        except BaseException:
            self._count(-1)
            raise
        future.add_done_callback(lambda _: self._count(-1))
        return future

    def _count(self, change: int) -> None:
        with self._count_lock:
            self._unfinished += change


_started: list[tuple[weakref.ref[ReadingThreads], set[int]]] = []


def settle() -> None:
    """Waits until no reading thread but this one has anything to do, and none is about to end."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    this = threading.get_native_id()
    for started in list(_started):
        its_pool, natives = started
        if this in natives:
            continue
        while time.monotonic() < deadline and not _is_settled(its_pool(), natives):
            time.sleep(_LOOK_SECONDS)
        if its_pool() is None:
            _started.remove(started)


def _is_settled(pool: ReadingThreads | None, natives: set[int]) -> bool:
    if pool is not None and not pool._shutdown:
        return pool.is_idle
    return not any(os.path.exists(f"/proc/self/task/{native}") for native in natives)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=settle, after_in_child=_started.clear)
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def reading_threads(count: int, read: Callable[[Any], Any], ahead: Iterator[Any]) -> Iterator[ReadingThreads]:
    """So many threads, as a worker has them, that have read what comes first `ahead`: they have opened what is theirs.

    Raises what `read` raises.
    """
    with one_torch_thread(), ReadingThreads(count) as pool:
        list(pool.map(read, islice(ahead, count)))
        yield pool
