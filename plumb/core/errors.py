"""Base classes of plumb's errors, and those of several rooms."""

from __future__ import annotations

# Imported by every Python process of a tuned script (`journal/hook.py`), so that it must import nothing large.


class PlumbError(Exception):
    """Base of all errors that plumb raises itself, except those that `except Exception` must not catch."""


class ExplainedError(PlumbError):
    """Error for the user: its message is one line that says what failed and what to do.

    A command that it ends prints the line and exits with `exit_code`.
    """

    exit_code = 1


class CommandError(ExplainedError):
    """Failure of a command."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class OutputError(ExplainedError):
    """What a command prints can't be written where its standard output goes, for instance to a full disk."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"the output could not be written ({(error.strerror or str(error)).lower()})")


class TuningError(ExplainedError):
    """The tuning can't go on."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StoreError(ExplainedError):
    """A store can't be used. The message is one line: what, where, and what to do if anything."""


class UsersError(PlumbError):
    """Carrier of an exception of the user's code to the user's loop, where it is raised unchanged."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(one_line(error))
        self.error = error


class LoopEndedError(PlumbError):
    """Thrown into a measurement coroutine when the user's loop will request no further batch."""


def one_line(error: BaseException) -> str:
    """Return the error's class and the last non-empty line of its message; worker errors contain a whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    # Torch writes a worker's error without a traceback into one line.
    return f"{name}: {lines[-1].removeprefix('Original ').removeprefix(f'{name}: ')}" if lines else name
