"""Trials, in a forked child, of work that may crash or hang its process.

Some of plumb's trials on a user's samples end the process instead of raising: for example, two threads that decode from
one `cv2.VideoCapture`. In a child, that is a result like any other.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import pickle
import resource
import select
import signal
import stat
import struct
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Generic, NoReturn, TypeVar

import psutil
import torch

from plumb.core.errors import one_line
from plumb.host.inherited_files import open_descriptors, regular_files, reopen, reopen_inherited_files
from plumb.host.process_control import CARETAKERS, end_with_parent, remove_segments

T = TypeVar("T")

_LENGTH = struct.Struct("<Q")
_CHUNK_BYTES = 1 << 20
_LOOK_SECONDS = 0.05
# A child that has sent its result only has to exit.
_EXIT_SECONDS = 2.0
_SHORTEST_CORE_BYTES = 1
# A descriptor with this flag only names a file. Python doesn't have the flag on every system.
_PATH_ONLY = getattr(os, "O_PATH", 0)


@dataclass(frozen=True)
class ChildOutcome(Generic[T]):
    """Result of work in a child: its `value`, or the `reason` why there is none.

    A reason continues a sentence that begins with the work: "crashed a process that tried it (SIGSEGV)". `has_died`:
    the child crashed, exited or hung, so that the work must not be done in an important process; otherwise it only
    raised.
    """

    value: T | None = None
    reason: str | None = None
    has_died: bool = False


def in_child(work: Callable[[], T], seconds: float) -> ChildOutcome[T]:
    """Do `work` in a forked child, and return its outcome.

    The child has a copy of this process's memory, reads inherited files at positions of its own, and can't use the
    parent's output, log files and connections: using them raises. Torch has one thread in it. After `seconds` it is
    killed, with all its descendants, and it never returns from here. Failures become reasons, not errors. The result of
    `work` must be picklable.

    Args:
        work: Called without arguments. It need not be picklable.
        seconds: Time limit for the work and for sending its result.
    """
    if not hasattr(os, "fork"):
        return ChildOutcome(reason="can't be tried in a process of its own on this system")
    receiving, sending = os.pipe()
    try:
        pid = _fork()
        if pid == 0:
            _be_the_child(work, sending, is_forked=True)
    except OSError as error:
        os.close(receiving)
        os.close(sending)
        return ChildOutcome(reason=f"can't be tried in a process of its own ({one_line(error)})")
    os.close(sending)
    return _outcome(_Child(pid, receiving), seconds)


def in_spawned_child(work: Callable[[], T], seconds: float) -> ChildOutcome[T]:
    """Do `work` as `in_child` does, but in a process that shares nothing with this one.

    Its start takes seconds, and runs the code of the script's main module outside its guard again. `work` must be
    picklable.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with receiver, sender:
        try:
            process = context.Process(target=_be_spawned, args=(sender, work))
            # Bypasses `Process.start`, which would list the process among the script's children.
            pid = process._Popen(process).pid
        except Exception as error:
            return ChildOutcome(reason=f"can't be tried in a process of its own ({one_line(error)})")
        receiving = os.dup(receiver.fileno())
    return _outcome(_Child(pid, receiving), seconds)


def _outcome(child: _Child, seconds: float) -> ChildOutcome[Any]:
    try:
        message = child.answer(time.monotonic() + seconds)
        child.end(_EXIT_SECONDS if message is not None else 0.0)
    finally:
        child.end(0.0)
        os.close(child.receiving)
    if message is None:
        return ChildOutcome(reason=child.how_it_ended(seconds), has_died=True)
    try:
        has_returned, value = pickle.loads(message)
    except Exception as error:
        return ChildOutcome(reason=f"returned what can't be handed over ({one_line(error)})")
    return ChildOutcome(value=value) if has_returned else ChildOutcome(reason=f"raised {value}")


class _Child:
    """Parent's side of a child: its result, and how it ended."""

    def __init__(self, pid: int, receiving: int) -> None:
        self.pid = pid
        self.receiving = receiving
        self._received = bytearray()
        self._status: int | None = None
        self._is_reaped = False
        self._was_late = False
        # Done in both processes, because both need the child to lead its group from here on.
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)

    def answer(self, deadline: float) -> bytes | None:
        """Return the child's message; None if it ended without one or did not send all of it by `deadline`."""
        while (left := deadline - time.monotonic()) > 0:
            is_over = self._has_exited()
            # A process started by the child may keep the pipe open after the child's end.
            wait = 0.0 if is_over else min(left, _LOOK_SECONDS)
            if select.select([self.receiving], [], [], wait)[0]:
                content = os.read(self.receiving, _CHUNK_BYTES)
                self._received += content
                if self._is_complete():
                    return bytes(self._received[_LENGTH.size :])
                is_over = not content
            if is_over:
                return None
        self._was_late = True
        return None

    def _is_complete(self) -> bool:
        if len(self._received) < _LENGTH.size:
            return False
        (length,) = _LENGTH.unpack_from(self._received)
        return len(self._received) - _LENGTH.size >= int(length)

    def end(self, seconds: float) -> None:
        """Wait up to `seconds` for the child's exit, then kill it and its descendants, and reap it."""
        deadline = time.monotonic() + seconds
        while not self._has_exited() and time.monotonic() < deadline:
            time.sleep(0.001)
        if not self._is_reaped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._reap(0)
        _kill_group(self.pid)
        if self._was_late or self._status != 0:
            remove_segments([self.pid])

    def _has_exited(self) -> bool:
        if not self._is_reaped:
            self._reap(os.WNOHANG)
        return self._is_reaped

    def _reap(self, options: int) -> None:
        try:
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:
            # The script ignores SIGCHLD, or its own handler has reaped the child.
            self._is_reaped = True
            return
        if pid:
            self._is_reaped, self._status = True, status

    def how_it_ended(self, seconds: float) -> str:
        """Return the reason for a missing result."""
        if self._was_late:
            return f"hung a process that tried it (no result within {seconds:.0f} s)"
        if self._status is None:
            return "ended a process that tried it"
        if os.WIFSIGNALED(self._status):
            return f"crashed a process that tried it ({_signal_name(os.WTERMSIG(self._status))})"
        return f"ended a process that tried it (exit code {os.waitstatus_to_exitcode(self._status)})"


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 and some libraries warn of forks with threads; a child that hangs is killed here.
        warnings.simplefilter("ignore")
        return os.fork()


def _kill_group(group: int) -> None:
    """Kill the rest of a reaped child's process group, except multiprocessing's and torch's helpers."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            is_left = os.getpgid(process.pid) == group
            if is_left and not any(name in part for part in process.cmdline() for name in CARETAKERS):
                process.kill()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# ---- in the child


def _be_the_child(work: Callable[[], Any], sending: int, is_forked: bool) -> NoReturn:
    try:
        # Kept until the end, because freeing a file writes its buffered content.
        kept = _part_from_parent()
        if is_forked:
            _cut_connections(sending)
        _send(sending, _result(work))
        del kept
    except Exception as error:
        # Few files may be open, for example.
        _send(sending, pickle.dumps((False, _words_for(error))))
    finally:
        # The child must run neither the parent's finalizers nor its exit handlers.
        os._exit(0)


def _be_spawned(sender: Connection, work: Callable[[], Any]) -> NoReturn:
    _be_the_child(work, sender.fileno(), is_forked=False)


def _result(work: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps((True, work()), protocol=pickle.HIGHEST_PROTOCOL)
    except BaseException as error:
        return pickle.dumps((False, _words_for(error)))


def _words_for(error: BaseException) -> str:
    try:
        return one_line(error)[:300]
    except Exception:
        return type(error).__name__


def _send(sending: int, message: bytes) -> None:
    content = memoryview(_LENGTH.pack(len(message)) + message)
    while content:
        content = content[os.write(sending, content) :]


def _part_from_parent() -> list[Any]:
    """Make this process one that may crash, and return the objects that must live as long as it does."""
    # The collector would run finalizers of the parent's objects, such as loaders that end their workers.
    gc.freeze()
    os.setpgid(0, 0)
    end_with_parent()
    _forget_signals()
    _leave_no_core()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
    _say_nothing_elsewhere()
    kept = [sys.stdin, sys.stdout, sys.stderr]
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    _reopen_files()
    # OpenMP's threads don't exist in a forked process, which would wait for them for ever.
    torch.set_num_threads(1)
    return kept


def _forget_signals() -> None:
    """Restore the default signal handlers, because the script's own may save checkpoints."""
    faulthandler.disable()
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)


def _leave_no_core() -> None:
    """Write no core file. A limit of one byte, unlike zero, also applies to cores that are piped to a program."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0 if hard == 0 else _SHORTEST_CORE_BYTES, hard))


def _say_nothing_elsewhere() -> None:
    """Redirect the standard streams, and the parent's files that are open for writing only, to the null device."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    logs = [number for number, flags in regular_files() if flags & os.O_ACCMODE == os.O_WRONLY]
    for number in {0, 1, 2, *logs}:
        os.dup2(nowhere, number, inheritable=number <= 2)
    if nowhere > 2:
        os.close(nowhere)


def _cut_connections(sending: int) -> None:
    """Make inherited sockets, pipes and the like unusable, except for the pipe to the parent.

    The parent would miss whatever the child sends or receives on them: TLS, for example, counts its records.
    """
    # Reading from this raises, unlike from /dev/null, which looks like the end of a stream.
    unusable = os.open("/", _PATH_ONLY) if _PATH_ONLY else os.open(os.devnull, os.O_RDWR)
    is_harmless = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISCHR, stat.S_ISBLK)
    for number, mode in open_descriptors():
        if number not in (0, 1, 2, sending) and not any(check(mode) for check in is_harmless):
            os.dup2(unusable, number, inheritable=os.get_inheritable(number))
    os.close(unusable)


def _reopen_files() -> None:
    """Give this process positions of its own in inherited files, including those open for reading and writing."""
    reopen_inherited_files()
    for number, flags in regular_files():
        if flags & os.O_ACCMODE == os.O_RDWR:
            with contextlib.suppress(OSError):
                reopen(number, flags)
