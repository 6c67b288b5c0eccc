"""Consoles for reports, which follow the user's environment."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from rich.console import Console, RenderableType

PLAIN_WIDTH = 120
"""Columns of what is printed where there is no terminal."""


def console(file: TextIO | None = None, stderr: bool = False) -> Console:
    """Return a console for standard output, or standard error; under NO_COLOR it prints no style at all."""
    plain = has_no_color()
    return Console(file=file, stderr=stderr, no_color=plain or None, color_system=None if plain else "auto")


def wide_console() -> Console:
    """Return a console for standard output that is wide enough for whole lines if it is no terminal."""
    output = console()
    if not output.is_terminal:
        output.width = PLAIN_WIDTH
    return output


def as_plain_text(shown: RenderableType) -> str:
    """Return what a terminal would show, without style."""
    output = Console(
        file=io.StringIO(), width=PLAIN_WIDTH, color_system=None, force_terminal=False, force_jupyter=False
    )
    with output.capture() as text:
        output.print(shown)
    return "\n".join(line.rstrip() for line in text.get().splitlines()).strip()


def has_no_color() -> bool:
    """Return whether the user's environment asks for plain text (no-color.org: NO_COLOR set and not empty)."""
    return bool(os.environ.get("NO_COLOR"))


def write_plainly(text: str) -> None:
    """Print `text` for other programs in UTF-8, whatever the terminal's encoding, without wrapping or colour."""
    stream = getattr(sys.stdout, "buffer", None)
    if stream is None:
        print(text)
        return
    sys.stdout.flush()
    stream.write(text.encode("utf-8", "backslashreplace") + b"\n")
    stream.flush()
