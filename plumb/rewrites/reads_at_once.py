"""Reads made at once, ever more of them, until their source gives no more.

`plumb.model.concurrency_climb` says how many are next.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from plumb.core.errors import one_line
from plumb.host.run_queue import queued_seconds_of_threads
from plumb.host.threads import ReadingThreads, one_torch_thread
from plumb.model.concurrency_climb import ClimbEnd, ReadsAtOnce, SourceCapacity, capacity_of, next_reads

# One look lasts so long, or for so many reads of each thread.
_LOOK_SECONDS, _SHORTEST_LOOK_SECONDS, _READS_EACH = 0.3, 0.1, 3.0
# A climb has about so many looks.
_LOOKS = 16
# A read that has not come back so long after the end of its look, or after so many times what one takes alone, is
# given up. A connection that is dropped once is tried again after a second, and then after two more.
_PATIENCE_SECONDS, _PATIENCE_READS = 3.5, 20.0
# A source has its rest once a single read is no slower than so many times what it was at first, or after so long.
_RESTED, _REST_SECONDS = 2.0, 4.0
# So many of the reads, those that are done last, are left out of a rate.
_LATE = 0.1
_COUNTERS = Path("/proc/net/netstat")


def climb_reads(
    read: Callable[[Any], Any], indices: Sequence[Any], alone_seconds: float, most: int, seconds: float
) -> SourceCapacity | None:
    """Climb from one read at once to as many as the source holds, with threads of this process.

    What `read` raises ends the climb, and is no error; what was being read is read again. Threads whose reads never end
    are left behind: the process must be one that may end with `os._exit`.

    Args:
        read: Reads one sample.
        indices: Indices of samples, read again and again.
        alone_seconds: What one read takes alone.
        most: The largest number of reads at once that is allowed.
        seconds: Time for all.

    Returns:
        What the source holds; None if there was no time for a first look.

    """
    deadline = time.perf_counter() + seconds
    look = max(min(_LOOK_SECONDS, seconds / _LOOKS), _SHORTEST_LOOK_SECONDS, _READS_EACH * alone_seconds)
    ahead, seen, reason = _Shared(indices), list[ReadsAtOnce](), ""
    with one_torch_thread():
        while (reads := next_reads(seen, most)) is not None:
            if time.perf_counter() + look + alone_seconds > deadline:
                reason = "there was no time"
                break
            try:
                latest = reads_at_once(
                    read, ahead, reads, look, max(_PATIENCE_SECONDS, _PATIENCE_READS * alone_seconds)
                )
            except RuntimeError as error:
                reason = one_line(error)
                break
            is_worse = any(latest.samples_per_second < one.samples_per_second for one in seen)
            seen.append(latest)
            if latest.failures or latest.tried_again or is_worse:
                _rest(read, ahead, alone_seconds)
    if not seen:
        return None
    capacity = capacity_of(seen, most, reason)
    return replace(capacity, end=ClimbEnd.PROCESS) if capacity.end is ClimbEnd.FLAT else capacity


@dataclass
class _Shared:
    """Indices that several threads take one by one, again and again."""

    indices: Sequence[Any]

    def __post_init__(self) -> None:
        self._ahead = cycle(self.indices)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with self._lock:
            return next(self._ahead)


@dataclass
class _Progress:
    """When each read of one thread was done, in seconds since the first began, and what failed."""

    done: list[float] = field(default_factory=list)
    failed: list[tuple[Any, str]] = field(default_factory=list)


def reads_at_once(
    read: Callable[[Any], Any], ahead: Iterator[Any], reads: int, seconds: float, patience_seconds: float
) -> ReadsAtOnce:
    """Read with `reads` threads for about `seconds`, each beginning at the same moment and then as soon as it can.

    Raises RuntimeError where this process may start no more threads.
    """
    stop = threading.Event()
    pool = ReadingThreads(reads)
    tasks = [_Progress() for _ in range(reads)]
    before, queued = tried_again(), queued_seconds_of_threads()
    begun, cpu = time.perf_counter(), time.process_time()
    until = begun + seconds

    def run(progress: _Progress) -> None:
        while not stop.is_set() and time.perf_counter() < until:
            index = next(ahead)
            try:
                read(index)
            except Exception as error:
                progress.failed.append((index, one_line(error)))
                stop.set()
            progress.done.append(time.perf_counter() - begun)

    futures = [pool.submit(run, progress) for progress in tasks]
    hung = wait(futures, seconds + patience_seconds).not_done
    took = time.perf_counter() - begun
    # The CPU and the queue are looked at while the threads still are there.
    needed = time.process_time() - cpu + queued_seconds_of_threads() - queued
    again = tried_again() - before
    pool.shutdown(wait=not hung, cancel_futures=True)
    failed = [each for progress in tasks for each in progress.failed]
    reason = failed[0][1] if failed else f"{len(hung)} of them did not end" if hung else ""
    done = sorted(each for progress in tasks for each in progress.done)
    count = len(done)
    # A few that come much later than the others say nothing of how many come as a rule.
    counted = math.ceil(count * (1 - _LATE))
    return ReadsAtOnce(
        reads,
        counted / max(done[counted - 1], 1e-9) if count else 0.0,
        min(1.0, needed / took),
        again / max(count, 1),
        len(failed) + len(hung),
        f"{reads} reads at once fail: {reason}" if reason else "",
    )


def tried_again() -> int:
    """Return how often TCP has sent something again for want of an answer; 0 where the system does not count that.

    These are all connections of this network namespace since it was made.
    """
    try:
        lines = _COUNTERS.read_text().splitlines()
    except OSError:
        return 0
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if names.startswith("TcpExt:"):
            counted = dict(zip(names.split()[1:], map(int, values.split()[1:]), strict=False))
            return max(counted.get("TCPSynRetrans", 0), counted.get("TCPTimeouts", 0))
    return 0


def _rest(read: Callable[[Any], Any], ahead: Iterator[Any], alone_seconds: float) -> None:
    """Read by one alone until that is as quick as it was: what was dropped has been tried again by then."""
    until = time.perf_counter() + _REST_SECONDS
    while time.perf_counter() < until:
        begin = time.perf_counter()
        try:
            read(next(ahead))
        except Exception:
            time.sleep(alone_seconds)
            continue
        if time.perf_counter() - begin <= _RESTED * alone_seconds:
            return
