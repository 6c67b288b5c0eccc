"""A worker of a trial: it tells where it is when asked, is the first to go where memory runs out, and is silent."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from torch.utils.data._utils import signal_handling

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
        _say_nothing()
        # Where the system must kill a process for want of memory, let it be this one, and not the training.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write(_FIRST_TO_GO)
        with contextlib.suppress(OSError):
            file = os.open(self.stacks, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            faulthandler.register(_SIGNAL, file=file, all_threads=True)
        if self.then is not None:
            self.then(worker_id)


@contextlib.contextmanager
def deaths_told_where_waited_for() -> Iterator[None]:
    """In the main process: a worker's death raises torch's RuntimeError only while a batch is waited for.

    Torch raises it wherever the main thread is. In a finaliser nobody can catch it, and a lock that was just taken is
    never given back. A death that is not told at once is found by torch when it has waited in vain for some seconds.
    """
    signal_handling._set_SIGCHLD_handler()
    then = signal.getsignal(signal.SIGCHLD)
    if threading.current_thread() is not threading.main_thread() or not callable(then):
        yield
        return
    untold: list[RuntimeError] = []

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            then(number, frame)
        except RuntimeError as error:
            if frame is not None and frame.f_code.co_filename == selectors.__file__:
                raise
            untold.append(error)

    signal.signal(signal.SIGCHLD, handler)
    try:
        yield
    except RuntimeError as error:
        if untold and not isinstance(error.__cause__, RuntimeError):
            raise error from untold[0]
        raise
    finally:
        signal.signal(signal.SIGCHLD, then)


def _say_nothing() -> None:
    """What a worker writes to standard error, the user's own loop says too; the rest is of the trial's end.

    Where another worker dies, those that were handing over a batch say so, and so do their finalisers.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    # It may be something else than the descriptor: a notebook's, for one.
    sys.stderr = os.fdopen(2, "w", closefd=False)
