"""The ways in which a command or a tuning can end early."""

from __future__ import annotations

import msgspec

DAMAGED_JSON = (msgspec.MsgspecError, UnicodeDecodeError)
"""What msgspec raises for bytes that are no JSON of the kind that is wanted, and Python for those that are no UTF-8."""


class CommandError(Exception):
    """What went wrong, in one line that says what to do, and the exit code that belongs to it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TuningError(Exception):
    """The tuning can't go on. The message is one line and says what to do."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UsersError(Exception):
    """Carries an exception of the user's own code to where the user's loop asks for a batch, to be raised unchanged."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(one_line(error))
        self.error = error


class LoopEndedError(Exception):
    """Thrown into a course when the user's loop will ask for no further batch."""


def one_line(error: BaseException) -> str:
    """The last line that says something: worker errors carry a whole traceback in their message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    # A worker's error that came without a traceback is all in one line of torch's.
    return f"{name}: {lines[-1].removeprefix('Original ').removeprefix(f'{name}: ')}" if lines else name
