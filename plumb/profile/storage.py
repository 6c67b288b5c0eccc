"""What is read: the bytes that a thread gets through system calls, and how long reads take that are made at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from types import TracebackType
from typing import Any

from plumb.profile.threads import reading_threads


@dataclass(frozen=True)
class ReadsAtOnce:
    """The median of single reads' seconds while so many were made at once, and the share of a core that they took."""

    median_seconds: float
    cpu_share: float


def reads_at_once(read: Callable[[Any], Any], indices: Sequence[Any], outstanding: int, reads: int) -> ReadsAtOnce:
    """Makes so many reads, `outstanding` at a time, by threads that have read before. Raises what `read` raises."""

    def seconds_of(index: Any) -> float:
        begin = time.perf_counter()
        read(index)
        return time.perf_counter() - begin

    ahead = cycle(indices)
    with reading_threads(outstanding, read, ahead) as pool:
        begin, cpu = time.perf_counter(), time.process_time()
        seconds = list(pool.map(seconds_of, islice(ahead, reads)))
        cpu_share = (time.process_time() - cpu) / (time.perf_counter() - begin)
    return ReadsAtOnce(median(seconds), cpu_share)


class ReadCounter:
    """Counts the bytes that this thread has read, from `/proc/thread-self/io`; always None where that is missing.

    Reads through memory maps are page faults and don't show. The counter's own readings are taken out.
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
        """Whether this host tells what a thread reads."""
        return self._file is not None

    def bytes_read(self) -> int | None:
        """Bytes read by this thread since it started, less what this counter read itself."""
        if self._file is None:
            return None
        text = os.pread(self._file, 1024, 0)
        total = int(text[len(b"rchar: ") : text.index(b"\n")]) - self._own
        self._own += len(text)
        return total
