"""A worker of a trial: it tells where it is when asked, and is the first to go where memory runs out."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

# No library that a dataset may use is known to listen to it.
_SIGNAL = getattr(signal, "SIGRTMAX", 64) - 3
_DUMPED_SECONDS, _POLL_SECONDS = 1.0, 0.02
_FIRST_TO_GO = "1000"


class Stacks:
    """A file without a name that workers write their stacks to. Only Linux has such files that others may open."""

    def __init__(self) -> None:
        self._file = os.memfd_create("plumb-stacks") if hasattr(os, "memfd_create") else None

    @property
    def path(self) -> str | None:
        """Under which a worker may open it, forked or not; None where there is none."""
        return None if self._file is None else f"/proc/{os.getpid()}/fd/{self._file}"

    def of(self, pid: int) -> str:
        """What `pid`, a worker that was prepared, is doing, as `faulthandler` says it; empty where it doesn't."""
        if self._file is None:
            return ""
        begin = os.fstat(self._file).st_size
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, _SIGNAL)
        deadline, dump = time.monotonic() + _DUMPED_SECONDS, b""
        while time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            before, dump = dump, os.pread(self._file, 1 << 20, begin)
            if dump and dump == before:
                break
        return dump.decode(errors="replace")

    def close(self) -> None:
        """Gives the file back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


@dataclass(frozen=True)
class WatchedInit:
    """What a worker does before the user's `worker_init_fn`. Picklable if that is.

    `stacks` is the path of the file for its stack.
    """

    stacks: str
    then: Callable[[int], None] | None

    def __call__(self, worker_id: int) -> None:
        # Where the system must kill a process for want of memory, let it be this one, and not the training.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write(_FIRST_TO_GO)
        with contextlib.suppress(OSError):
            file = os.open(self.stacks, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            faulthandler.register(_SIGNAL, file=file, all_threads=True)
        if self.then is not None:
            self.then(worker_id)
