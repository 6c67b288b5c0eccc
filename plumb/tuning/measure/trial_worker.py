"""Trial workers: dump their stack on request, have the highest OOM score, write nothing to stderr."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from torch.utils.data._utils import signal_handling

from plumb.instrument.worker_init import STACK_SIGNAL

_DUMPED_SECONDS, _POLL_SECONDS = 1.0, 0.02


class Stacks:
    """Unnamed file to which workers write their stacks; exists on Linux only, where other processes can open it."""

    def __init__(self) -> None:
        self._file = os.memfd_create("plumb-stacks") if hasattr(os, "memfd_create") else None

    @property
    def path(self) -> str | None:
        """Path by which a worker, forked or not, can open it; None without one."""
        return None if self._file is None else f"/proc/{os.getpid()}/fd/{self._file}"

    def of(self, pid: int) -> str:
        """Return the stack of the worker `pid`, as dumped by `faulthandler`; empty if it doesn't respond."""
        if self._file is None:
            return ""
        begin = os.fstat(self._file).st_size
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, STACK_SIGNAL)
        deadline, dump = time.monotonic() + _DUMPED_SECONDS, b""
        while time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            before, dump = dump, os.pread(self._file, 1 << 20, begin)
            if dump and dump == before:
                break
        return dump.decode(errors="replace")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


@contextlib.contextmanager
def worker_deaths_raised_while_waiting() -> Iterator[None]:
    """Let a worker's death raise torch's RuntimeError in the main process only while it waits for a batch.

    Torch raises it at any point of the main thread: in a finalizer it can't be caught, and a lock that was just
    acquired would never be released. Torch itself notices a death that is not raised at once after some seconds of
    waiting.
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
