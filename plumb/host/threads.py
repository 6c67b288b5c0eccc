"""Threads as in a loader's workers: torch's own, and those that read samples."""

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

# Longest wait of a fork for threads that are in the middle of a sample, and the interval between checks.
_PATIENCE_SECONDS, _LOOK_SECONDS = 10.0, 0.001


def one_torch_thread() -> AbstractContextManager[None]:
    """Run torch on one thread, as in a worker, and restore the number of threads on exit."""
    return torch_threads(1)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run torch on `count` threads, and restore the number of threads on exit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def thread_seconds(work: Callable[[], object]) -> float:
    """Return this thread's CPU seconds to run `work` and to release its result."""
    begin = time.thread_time()
    work()
    return time.thread_time() - begin


def _use_one_torch_thread() -> None:
    # A thread has its own number only after it has been queried; else it takes the number of others when it computes.
    torch.get_num_threads()
    torch.set_num_threads(1)


_parsing = threading.RLock()


def _parse_one_at_a_time() -> None:
    """Let only one thread of this process parse Python at a time; `numpy.load` parses for each file that it reads.

    Python 3.11 raises SystemError if another thread interrupts the parser, as a finalizer may let it (CPython issue
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
    """Pool of `count` threads that read samples, each with one torch thread, as in a worker process.

    A fork waits until no thread is in the middle of a sample or of ending, because a lock that a library holds at that
    moment would stay locked in the child for ever. Intel's MKL keeps the memory of its transforms under such a lock,
    and takes it when a thread ends, too.

    Raises:
        RuntimeError: The host allows no more threads.

    """

    def __init__(self, count: int) -> None:
        _parse_one_at_a_time()
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
            # New threads start with the number that a thread set last, so it is restored.
            torch.set_num_threads(threads)

    @property
    def is_idle(self) -> bool:
        """True if no thread has work."""
        return self._unfinished == 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit work as `ThreadPoolExecutor` does, and count it until it is done."""
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
    """Wait until no reading thread except this one has work, and none is ending."""
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
    """Provide `count` threads as in a worker, each of which has read a first index of `ahead` to open its files.

    Raises what `read` raises.
    """
    with one_torch_thread(), ReadingThreads(count) as pool:
        list(pool.map(read, islice(ahead, count)))
        yield pool
