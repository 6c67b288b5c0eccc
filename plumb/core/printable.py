"""Text with characters that an encoding lacks, for JSON and for people, and JSON that is damaged.

Python represents a file name that is no UTF-8 as a string with lone surrogates, which no encoder accepts.
"""

from __future__ import annotations

import codecs
from typing import Any

import msgspec

ERRORS = "plumb.core.printable"
"""Name of the error handler that writes ASCII characters in place of those that an encoding lacks."""

DAMAGED_JSON = (msgspec.MsgspecError, UnicodeDecodeError)
"""Errors of msgspec for bytes that are no JSON of the expected type, and of Python for bytes that are no UTF-8."""

# Replacements of the non-ASCII characters in plumb's own reports, for a terminal without them.
_PLAIN = str.maketrans(
    {
        "█": "#", "▉": "#", "▊": "#", "▋": "#", "▌": "#", "▍": "#", "▎": "|", "▏": "|", "░": ".", "·": "-", "µ": "u",
        "μ": "u", "×": "x", "→": "->", "…": "...", "–": "-", "—": "-", "’": "'", "‘": "'", "“": '"', "”": '"',
        "├": "|", "│": "|", "└": "`", "─": "-", "━": "-", "╸": "-", "╺": "-", "┃": "|", "°": " deg ", "₂": "2",
    }
)  # fmt: skip


def printable(text: str) -> str:
    """Return the text with lone surrogates escaped: a backslash, a `u` and four digits."""
    return text.encode("utf-8", "backslashreplace").decode()


def to_json(value: Any) -> bytes:
    """Return a value as JSON, as msgspec writes it; lone surrogates in its strings are escaped."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_written_out(msgspec.to_builtins(value)))


def _written_out(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_written_out(key): _written_out(item) for key, item in value.items()}
    return [_written_out(item) for item in value] if isinstance(value, (list, tuple)) else value


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = printable(lacking.translate(_PLAIN))
    return "".join(letter if letter.isascii() else "?" for letter in plain), error.end


codecs.register_error(ERRORS, _in_ascii)
