"""Tracebacks as users know them: without the frames of plumb."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

# Those of plumb, and of what started it.
_LEFT_OUT = (str(Path(__file__).parent) + os.sep, "<frozen runpy>")


def without_plumb(error: BaseException) -> None:
    """Takes plumb's frames out of the tracebacks of `error` and of all errors that it came from."""
    _clean(error, set())


def _clean(error: BaseException | None, seen: set[int]) -> None:
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.with_traceback(_cleaned(error.__traceback__))
        if error.__cause__ is not None:
            _clean(error.__cause__, seen)
        error = error.__context__


def _cleaned(trace: TracebackType | None) -> TracebackType | None:
    frames = []
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(_LEFT_OUT):
            frames.append(trace)
        trace = trace.tb_next
    cleaned: TracebackType | None = None
    for part in reversed(frames):
        cleaned = TracebackType(cleaned, part.tb_frame, part.tb_lasti, part.tb_lineno)
    return cleaned
