"""Translation of errors into what a command prints on standard error, and its exit code."""

from __future__ import annotations

from plumb.core.errors import ExplainedError
from plumb.core.log import logger

_log = logger(__name__)


def line_and_code(error: Exception) -> tuple[str | None, int]:
    """Return the line to print, and the exit code; None if there is nothing left to print.

    An error that explains itself is printed as it is. Any other one is a failure of plumb's own, which is reported.
    """
    if isinstance(error, ExplainedError):
        _log.debug("the command ends", exc_info=error)
        return f"plumb: {error}", error.exit_code
    from plumb.instrument import failure_report

    failure_report.say(error, "nothing was done")
    return None, 1
