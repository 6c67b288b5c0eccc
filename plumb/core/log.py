"""Log for plumb's maintainers, by the standard `logging`: silent unless `PLUMB_LOG` names a level.

Its lines go to standard error, from every process of a script. A program that sets the level of the logger "plumb" gets
them by handlers of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys

VARIABLE = "PLUMB_LOG"
_OFF = ("", "0", "off", "none")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_FORMAT = "%(asctime)s.%(msecs)03d %(process)d %(name)s: %(message)s"


class _StandardErrorHandler(logging.Handler):
    """Handler that prints to what `sys.stderr` is at that time: a script may replace or close it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record; do nothing if that is impossible."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if sys.stderr is not None:
                print(self.format(record), file=sys.stderr, flush=True)


def configure() -> None:
    """Print what the environment asks for. Each process does so when it first imports a module that logs."""
    root = logging.getLogger("plumb")
    for handler in list(root.handlers):
        if isinstance(handler, (_StandardErrorHandler, logging.NullHandler)):
            root.removeHandler(handler)
    asked = os.environ.get(VARIABLE, "").lower()
    is_on = asked not in _OFF
    # The level is plumb's own when off, too: a script that lowers its root logger's must not print plumb's lines.
    root.setLevel(_LEVELS.get(asked, logging.DEBUG) if is_on else logging.WARNING)
    root.propagate = not is_on
    if not is_on:
        root.addHandler(logging.NullHandler())
        return
    printer = _StandardErrorHandler()
    printer.setFormatter(logging.Formatter(_FORMAT, datefmt="%H:%M:%S"))
    root.addHandler(printer)


configure()


def logger(module: str) -> logging.Logger:
    """Return the logger of a module, named as it is."""
    return logging.getLogger(module)
