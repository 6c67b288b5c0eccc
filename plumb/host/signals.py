"""Signals that end this process, delayed until the process has cleaned up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGHUP)


class SignalledError(BaseException):
    """A signal requests the end of this process; as a BaseException it passes handlers of errors."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise SignalledError in the context; the code that catches it ends the process likewise.

    Signals that are ignored, as SIGHUP is under nohup, or that have a handler, are left alone.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SignalledError(number)

    taken = []
    if threading.current_thread() is threading.main_thread():
        taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Delay the signals that end this process, including Ctrl-C, until the context ends."""
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)

    # Uses handlers and no mask, because a signal that one thread blocks is delivered to another one.
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, remember) for number in (*_ENDING, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
