"""Standard input, output and error of a command, even if the shell closed some."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from plumb.core.printable import ERRORS


def open_missing(descriptors: tuple[int, ...]) -> None:
    """Open the null device under each of these descriptors that is closed.

    Otherwise the next opened file or pipe would get the number, and printed text would be written there.
    """
    for descriptor in filter(_is_closed, descriptors):
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
        os.set_inheritable(descriptor, True)
    if sys.stdout is None:
        sys.stdout = _writer(1)
    if sys.stderr is None:
        sys.stderr = _writer(2)


def print_what_can_be_printed() -> None:
    """Print ASCII characters in place of those that the output's encoding lacks, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with contextlib.suppress(OSError, ValueError):
                reconfigure(errors=ERRORS)


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def _writer(descriptor: int) -> Any:
    return open(descriptor, "w", encoding="utf-8", errors=ERRORS, closefd=False)
