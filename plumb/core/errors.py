"""Errors that end a command or a tuning early."""

from __future__ import annotations

import msgspec

DAMAGED_JSON = (msgspec.MsgspecError, UnicodeDecodeError)
"""Errors of msgspec for bytes that are no JSON of the expected type, and of Python for bytes that are no UTF-8."""


class PlumbError(Exception):
    """Base of all errors that plumb raises itself. The message is one line for people."""


class CommandError(PlumbError):
    """Failure of a command: one line that says what to do, and the exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TuningError(Exception):
    """The tuning can't go on. The message is one line and says what to do."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UsersError(Exception):
    """Carrier of an exception of the user's code to the user's loop, where it is raised unchanged."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(one_line(error))
        self.error = error


class LoopEndedError(Exception):
    """Thrown into a course (measurement generator) when the user's loop will request no further batch."""


def one_line(error: BaseException) -> str:
    """Return the error's class and the last non-empty line of its message; worker errors contain a whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    # Torch writes a worker's error without a traceback into one line.
    return f"{name}: {lines[-1].removeprefix('Original ').removeprefix(f'{name}: ')}" if lines else name


class StoreError(Exception):
    """A store can't be used. The message is one line: what, where, and what to do if anything."""
