"""Places in the user's code that samples run, counted in samples, and which arguments its functions get."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch

from plumb.instrument.callee import is_user_file

Position = tuple[int, int, int | None, int | None]
"""First and last line, first and last column; no columns if Python doesn't record them."""

# A place is tried if at least one of this many samples ran it, and at least this many samples.
_ONE_OF, _FEWEST = 8, 2
_UNCHANGEABLE = (int, float, complex, str, bytes, type(None))
_Places = dict[CodeType, set[int]]


class ExecutedCode:
    """Record of the places that samples have run, for at most `seconds`; the first sample is always recorded.

    A place counts as tried if a good share of the samples ran it, or if it belongs to a set-up: the first read of a
    sample ran it, the second one didn't. `shared` are values that all samples read.
    """

    def __init__(self, seconds: float, shared: Iterable[Any] = ()) -> None:
        self._until = time.monotonic() + seconds
        # Refers to the values, so that no id is reused.
        self._shared = {id(value): value for value in shared if not isinstance(value, _UNCHANGEABLE)}
        self._given_shared: dict[CodeType, set[str]] = {}
        self._samples = 0
        self._codes: set[CodeType] = set()
        self._counts: dict[str, Counter[Position]] = {}
        self._set_up: dict[str, set[Position]] = {}

    def read(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, which makes one sample, and record what it runs."""
        if self._samples and time.monotonic() > self._until:
            return work()
        result, places = self._traced(work)
        self._samples += 1
        for file, found in self._by_file(places).items():
            self._counts.setdefault(file, Counter()).update(found)
        return result

    def set_up(self, work: Callable[[], Any]) -> None:
        """Record what only the first of two reads of a sample runs."""
        first, second = (self._by_file(self._traced(work)[1]) for _ in range(2))
        for file, found in first.items():
            self._set_up.setdefault(file, set()).update(found - second.get(file, set()))

    def has_run(self, code: CodeType) -> bool:
        """Return whether any part of a function has run."""
        return code in self._codes

    def own_parameters(self, code: CodeType) -> frozenset[str]:
        """Return the parameters of a function that ran and never got a shared value by them."""
        given = self._given_shared.get(code)
        return frozenset() if given is None else frozenset(_parameters(code)) - given

    def has_tried(self, file: str, first: tuple[int, int], last: tuple[int, int], is_alone: bool) -> bool:
        """Return whether something between two places of a file, (line, column) each, was tried.

        Args:
            file: Path of the file, as its code objects have it.
            first: Where the part of the code begins.
            last: Where it ends.
            is_alone: Whether no other statement is in its line; else lines without columns don't count.
        """

        def lies_within(position: Position) -> bool:
            line, end_line, column, end_column = position
            if column is None or end_column is None:
                return is_alone and first[0] <= line <= last[0]
            return first <= (line, column) and (end_line, end_column) <= last

        if any(map(lies_within, self._set_up.get(file, ()))):
            return True
        counts = self._counts.get(file, Counter())
        most = max((count for position, count in counts.items() if lies_within(position)), default=0)
        return most >= max(_FEWEST, self._samples / _ONE_OF)

    def _traced(self, work: Callable[[], Any]) -> tuple[Any, _Places]:
        """Return the result of `work`, and the offsets of the instructions in the user's code that this thread runs."""
        places: _Places = {}

        def enter(frame: FrameType, event: str, argument: Any) -> Any:
            if not is_user_file(frame.f_code.co_filename):
                return None
            self._note_arguments(frame)
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
            add = places.setdefault(frame.f_code, set()).add

            def at_code(frame: FrameType, event: str, argument: Any) -> Any:
                if event == "opcode":
                    add(frame.f_lasti)
                return at_code

            return at_code

        before = sys.gettrace()
        sys.settrace(enter)
        try:
            return work(), places
        finally:
            sys.settrace(before)

    def _note_arguments(self, frame: FrameType) -> None:
        given, values = self._given_shared.setdefault(frame.f_code, set()), frame.f_locals
        for name in _parameters(frame.f_code):
            # A generator is entered again and again, and may have deleted its parameter by then.
            if any(id(each) in self._shared for each in _bases(values.get(name))):
                given.add(name)

    def _by_file(self, places: _Places) -> dict[str, set[Position]]:
        found: dict[str, set[Position]] = {}
        for code, offsets in places.items():
            self._codes.add(code)
            positions = _positions(code)
            found.setdefault(code.co_filename, set()).update(
                positions[offset] for offset in offsets if offset in positions
            )
        return found


def _parameters(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _positions(code: CodeType) -> dict[int, Position]:
    """Return the place of each instruction in a function, by its offset."""
    found: dict[int, Position] = {}
    if hasattr(code, "co_positions"):
        for number, (line, end_line, column, end_column) in enumerate(code.co_positions()):
            if line is not None:
                found[2 * number] = (line, end_line or line, column, end_column)
        return found
    for begin, end, line in code.co_lines():
        if line is not None:
            found.update((offset, (line, line, None, None)) for offset in range(begin, end, 2))
    return found


def _bases(value: Any) -> Iterator[Any]:
    """Yield a value, and the arrays that it is a view of."""
    while value is not None:
        yield value
        is_array = isinstance(value, np.ndarray)
        value = value._base if isinstance(value, torch.Tensor) else value.base if is_array else None
