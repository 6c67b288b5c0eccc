"""Options of this Python interpreter, for a child that must run under the same ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

# Letters of options that take an argument, in the same word or as the next one; those that end the options.
_WITH_ARGUMENT, _LAST = "WX", "cm"
_LONG_WITH_ARGUMENT = "--check-hash-based-pycs"


def options(interactive: bool) -> list[str]:
    """Return the options of this process's interpreter, as typed: `-O`, `-X dev`, `-W error`, `-u`.

    Those of environment variables are inherited anyway. `-i`, which starts a prompt after the script, is kept only if
    `interactive`.
    """
    words = getattr(sys, "orig_argv", [])[1:]
    try:
        return _typed(words, interactive)
    except IndexError:
        # A program that embeds Python may put anything there.
        return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined]


def _typed(words: Sequence[str], interactive: bool) -> list[str]:
    """Return the options among the words of a command line, up to the script. Raise IndexError for a broken one."""
    found: list[str] = []
    place = 0
    while place < len(words) and words[place].startswith("-") and words[place] not in ("-", "--"):
        word = words[place]
        place += 1
        if word.startswith("--"):
            found.append(word)
            if word == _LONG_WITH_ARGUMENT:
                found.append(words[place])
                place += 1
            continue
        for position, letter in enumerate(word[1:], start=1):
            if letter in _LAST:
                return found
            if letter in _WITH_ARGUMENT:
                argument = word[position + 1 :]
                if not argument:
                    argument = words[place]
                    place += 1
                found += [f"-{letter}", argument]
                break
            if letter != "i" or interactive:
                found.append(f"-{letter}")
    return found


def has_script_folder_on_path() -> bool:
    """Return whether Python puts a script's folder first on `sys.path`, which it doesn't under `-I` or `-P`."""
    return not (sys.flags.isolated or getattr(sys.flags, "safe_path", False))
