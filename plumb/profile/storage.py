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

from plumb.errors import one_line
from plumb.profile.threads import reading_threads

_OUTSTANDING = (1, 4, 16, 64)
# Each thread reads so often, and all of them so much at least, to show what storage gives.
_READS_EACH, _READS_AT_LEAST = 2, 8
# Storage holds reads up where they take so many times as long as one alone, and leave so much of a core idle.
_SLOWED_DOWN, _BUSY = 1.4, 0.6
# No look is begun that may take more than this share of the time that is left.
_SHARE_OF_TIME = 0.1


@dataclass(frozen=True)
class _ReadsAtOnce:
    """The median of single reads' seconds while so many were made at once, and the share of a core that they took."""

    median_seconds: float
    cpu_share: float


def _reads_at_once(read: Callable[[Any], Any], indices: Sequence[Any], outstanding: int, reads: int) -> _ReadsAtOnce:
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
    return _ReadsAtOnce(median(seconds), cpu_share)


@dataclass(frozen=True)
class HeldUp:
    """The median seconds of single reads with 1, 4, 16 and 64 `outstanding`, up to the first that took too long or
    failed, which `reason` tells; and whether storage held the most of them up.
    """

    outstanding: tuple[int, ...]
    median_seconds: tuple[float, ...]
    is_held_up: bool
    reason: str = ""


def held_up(
    read: Callable[[Any], Any], indices: Sequence[Any], read_seconds: float, seconds_left: Callable[[], float]
) -> HeldUp:
    """Whether ever more reads at once, of `read_seconds` each alone, are held up by what they read from."""
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
        # Threads of one process share about one core: that they wait for it is not storage's doing, nor can they do
        # anything else where one alone needs most of it, however little others leave them. Where more of them get to
        # that, or are no slower after all, it was not storage that held fewer up either.
        is_idle = max(alone.cpu_share, latest.cpu_share) < _BUSY
        is_held_up = is_idle and latest.median_seconds > _SLOWED_DOWN * alone.median_seconds
    return HeldUp(_OUTSTANDING[: len(looks)], tuple(look.median_seconds for look in looks), is_held_up, reason)


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
