"""Reads: the bytes that a thread reads through system calls, and the time of concurrent reads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from types import TracebackType
from typing import Any

from plumb.errors import one_line
from plumb.profile.threads import reading_threads

_OUTSTANDING = (1, 4, 16, 64)
# Number of reads per thread, and the fewest in all, to show what storage provides.
_READS_EACH, _READS_AT_LEAST = 2, 8
# Storage slows reads down if they take this many times as long as a single read and use less of a core than this.
_SLOWED_DOWN, _BUSY = 1.4, 0.6
# A measurement is not started if it may take more than this share of the time left.
_SHARE_OF_TIME = 0.1


@dataclass(frozen=True)
class _ReadsAtOnce:
    """Median seconds of single reads during concurrent reads, and the share of a core that all of them used."""

    median_seconds: float
    cpu_share: float


def _reads_at_once(read: Callable[[Any], Any], indices: Sequence[Any], outstanding: int, reads: int) -> _ReadsAtOnce:
    """Make `reads` reads, `outstanding` at a time, with threads that have read before. Raise what `read` raises."""

    def seconds_of(index: Any) -> float:
        begin = time.perf_counter()
        read(index)
        return time.perf_counter() - begin

    ahead = cycle(indices)
    with reading_threads(outstanding, read, ahead) as pool:
        begin, cpu = time.perf_counter(), time.process_time()
        seconds = list(pool.map(seconds_of, islice(ahead, reads)))
        cpu_share = (time.process_time() - cpu) / (time.perf_counter() - begin)
    return _ReadsAtOnce(median(seconds), cpu_share)


@dataclass(frozen=True)
class HeldUp:
    """Median seconds of single reads with 1, 4, 16 and 64 outstanding, and whether storage slowed the last down.

    The series ends before the first number of reads that would take too long or that failed; `reason` says why it
    failed.
    """

    outstanding: tuple[int, ...]
    median_seconds: tuple[float, ...]
    is_held_up: bool
    reason: str = ""


def held_up(
    read: Callable[[Any], Any], indices: Sequence[Any], read_seconds: float, seconds_left: Callable[[], float]
) -> HeldUp:
    """Time reads with 1, 4, 16 and 64 in flight, and report whether storage slows them down.

    Args:
        read: Function that reads the sample of an index.
        indices: Indices to read, repeated as needed.
        read_seconds: Seconds of a single read, for planning.
        seconds_left: Function that returns the seconds left for measurements.

    """
    looks: list[_ReadsAtOnce] = []
    is_held_up, reason = False, ""
    for outstanding in _OUTSTANDING:
        if _READS_EACH * read_seconds > _SHARE_OF_TIME * seconds_left():
            break
        try:
            latest = _reads_at_once(read, indices, outstanding, max(_READS_EACH * outstanding, _READS_AT_LEAST))
        except Exception as error:
            reason = f"{outstanding} reads at once fail: {one_line(error)}"
            break
        looks.append(latest)
        alone = looks[0]
        # Threads of one process share about one core. Waiting for it is not storage's doing, and nothing can be gained
        # if a single read already needs most of a core. If more reads fill the core, or are no slower after all,
        # storage did not slow down fewer reads either; so the last measurement decides.
        is_idle = max(alone.cpu_share, latest.cpu_share) < _BUSY
        is_held_up = is_idle and latest.median_seconds > _SLOWED_DOWN * alone.median_seconds
    return HeldUp(_OUTSTANDING[: len(looks)], tuple(look.median_seconds for look in looks), is_held_up, reason)


class ReadCounter:
    """Counter of the bytes that this thread has read, from `/proc/thread-self/io`; None if the file is missing.

    Reads through memory maps are page faults and don't count. The counter subtracts its own reads.
    """

    def __init__(self) -> None:
        self._own = 0
        try:
            self._file: int | None = os.open("/proc/thread-self/io", os.O_RDONLY)
        except OSError:
            self._file = None

    def __enter__(self) -> ReadCounter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def counts(self) -> bool:
        """True if this host reports what a thread reads."""
        return self._file is not None

    def bytes_read(self) -> int | None:
        """Return the bytes read by this thread since it started, without this counter's own reads."""
        if self._file is None:
            return None
        text = os.pread(self._file, 1024, 0)
        total = int(text[len(b"rchar: ") : text.index(b"\n")]) - self._own
        self._own += len(text)
        return total
