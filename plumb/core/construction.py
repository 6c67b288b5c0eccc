"""Record of how a script made a loader, as plain data in a plan: calls, branches not taken, and settings."""

from __future__ import annotations

from dataclasses import dataclass

TEXT_AT_MOST = 2000
"""Longest source text of a call in a record; a text to be compared with it is cut alike."""


@dataclass(frozen=True)
class StackCall:
    """A call in the user's code that led to the loader, with its source text.

    `file` is relative to the script's folder. `scope` is the name of the function around the call. It is the call with
    this `number`, from 0, of `count` calls of the same expression `called` in the file; with `is_unique`, no other call
    there has the same text. With `is_direct`, this call itself ran the code of the next inner call, without a library
    in between; the innermost call ran the loader's constructor.
    """

    file: str
    scope: str
    line: int
    text: str
    called: str
    number: int
    count: int
    is_unique: bool
    is_direct: bool


@dataclass(frozen=True)
class SkippedLines:
    """Lines of a branch whose condition says that it was not executed."""

    file: str
    first: int
    last: int


@dataclass(frozen=True)
class ParsedOption:
    """Option that argparse parsed: its name in the result, its flags, and its value and default as Python text."""

    name: str
    flags: tuple[str, ...]
    value: str
    default: str


@dataclass(frozen=True)
class Construction:
    """Record of a loader's construction.

    Attributes:
        calls: Calls that led to the loader, the innermost first.
        skipped: Branches that were not executed, as far as their conditions can be evaluated without running code.
        options: Options that argparse had parsed, if their values are numbers, flags or None.
        config_files: Files with settings that the script had read, relative to the script's folder.
        sources: The user's source files that were imported, relative to the script's folder.

    """

    calls: tuple[StackCall, ...] = ()
    skipped: tuple[SkippedLines, ...] = ()
    options: tuple[ParsedOption, ...] = ()
    config_files: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
