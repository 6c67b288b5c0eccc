"""Forced switches between threads at calls and lookups, which expose state that threads share."""

from __future__ import annotations

import dis
import functools
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from plumb.instrument.callee import PLUMB_FOLDER, is_user_file
from plumb.runtime.replay.replay import Replay

PAUSES_PER_SAMPLE = 40
# Some pauses last until the other threads have passed up to this many places, or for this long: enough for a whole
# prefix or suffix. If they did nothing in the last one, as at the end of a batch, the next one is short.
_MOST_PLACES, _LONG_SECONDS, _LONG_SHARE = 12, 3e-3, 0.3
_SHORT_SECONDS, _LOOK_SECONDS = 1e-4, 5e-5
# On a busy host, a pause of any length may take many times as long.
_PAUSING_SECONDS = 0.3
# Limits the wait for the interpreter's lock after a pause.
_SWITCH_SECONDS = 1e-4
_READS_SAMPLE = Replay._run.__code__
_CODES = frozenset(
    number
    for name, number in dis.opmap.items()
    if "CALL" in name or "SUBSCR" in name or name in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "BINARY_OP")
)


def share_of_places(reads: Callable[[], Any], samples: int) -> float:
    """Return the share of places to pause at for about `PAUSES_PER_SAMPLE` pauses in each of `samples` that are read.

    A place is before a call, a subscript or an attribute in the user's code, and at the start and the end of any call.
    All samples must be read by a `Replay`.
    """
    places = 0

    def count() -> None:
        nonlocal places
        places += 1

    with _followed(count):
        reads()
    return min(1.0, PAUSES_PER_SAMPLE * samples / max(1, places))


@contextmanager
def interruptible(share: float) -> Iterator[Pauses]:
    """Make this thread, and those started in the context, pause at a `share` of their places.

    None pauses outside of `Pauses.drawn_from`. Other trace functions, such as a debugger's, are restored.
    """
    pauses = Pauses(share)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        with _followed(pauses.at_place):
            yield pauses
    finally:
        sys.setswitchinterval(interval)


class _Depth(threading.local):
    samples = 0


@contextmanager
def _followed(at_place: Callable[[], None]) -> Iterator[None]:
    """Call `at_place` at each place of this thread, and of those started in the context, while they read a sample."""
    depth = _Depth()

    def at_call(frame: FrameType, event: str, argument: Any) -> None:
        if frame.f_code is _READS_SAMPLE:
            depth.samples += (event == "call") - (event == "return")
        elif depth.samples and not frame.f_code.co_filename.startswith(PLUMB_FOLDER):
            at_place()

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        if not depth.samples or not _is_users(frame.f_code.co_filename):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return at_code

    def at_code(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and _content(frame.f_code)[frame.f_lasti] in _CODES:
            at_place()
        return at_code

    before = sys.getprofile(), sys.gettrace(), threading.getprofile(), threading.gettrace()
    threading.setprofile(at_call)
    threading.settrace(enter)
    sys.setprofile(at_call)
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.setprofile(before[0])
        sys.settrace(before[1])
        threading.setprofile(before[2])
        threading.settrace(before[3])


@functools.lru_cache(None)
def _is_users(name: str) -> bool:
    return is_user_file(name)


@functools.lru_cache(None)
def _content(code: CodeType) -> bytes:
    return code.co_code


class _Thread(threading.local):
    seed: int | None = None
    chance = random.Random(0)
    others_ran = True


class Pauses:
    """Pauses of some threads, during which the others continue."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._seed: int | None = None
        self._until = 0.0
        self._begun = self._places = 0
        self._mine = _Thread()

    @contextmanager
    def drawn_from(self, seed: int) -> Iterator[None]:
        """Pause in the context at random places for random times per thread, but not any more after a time limit."""
        self._seed, self._until = seed, time.perf_counter() + _PAUSING_SECONDS
        try:
            yield
        finally:
            self._seed = None

    def at_place(self) -> None:
        """Pause with the given probability."""
        seed, mine = self._seed, self._mine
        if seed is None:
            return
        # A switch of threads at this line may lose one count, which does no harm.
        self._places += 1
        if mine.seed != seed:
            self._begun += 1
            mine.seed, mine.chance = seed, random.Random(1000 * seed + self._begun)
        if mine.chance.random() < self._share:
            self._pause(mine)
            if time.perf_counter() > self._until:
                self._seed = None

    def _pause(self, mine: _Thread) -> None:
        before = self._places
        if mine.others_ran and mine.chance.random() < _LONG_SHARE:
            wanted, end = mine.chance.randint(1, _MOST_PLACES), time.perf_counter() + _LONG_SECONDS
            while self._places - before < wanted and time.perf_counter() < end:
                time.sleep(_LOOK_SECONDS)
        else:
            time.sleep(mine.chance.random() * _SHORT_SECONDS)
        mine.others_ran = self._places != before
