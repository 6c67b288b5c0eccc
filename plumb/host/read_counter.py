"""The bytes that a thread reads through system calls."""

from __future__ import annotations

import os
from types import TracebackType


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
