"""Tracebacks without the frames of plumb."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

# Files of plumb, and of the module that started it.
_LEFT_OUT = (str(Path(__file__).parent.parent) + os.sep, "<frozen runpy>")


def without_plumb(error: BaseException) -> None:
    """Remove plumb's frames from the tracebacks of `error` and of all errors that caused it."""
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
