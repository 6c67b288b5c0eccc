"""Marks in plan files: results of runs for an entry, and entries that turned out wrong and are not used again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from plumb.core.atomic_file import replace_file
from plumb.core.plan import Delivered, LoaderResult, files_of
from plumb.core.printable import DAMAGED_JSON


def mark_unsafe(entry: LoaderResult, reason: str) -> None:
    """Mark a loader's entry in the plan files that it came from, so that the next run does not use it.

    Prints one line on standard error for a file that can't be changed.
    """

    def add(loader: dict[str, Any]) -> None:
        loader["unsafe"] = reason
        loader["notes"] = [*loader.get("notes", ()), f"Not used any more: {reason}. Tune again."]

    for path, number in files_of(entry):
        why_not = _change(path, number, entry, add)
        if why_not:
            print(f"plumb: {path} can't be marked ({why_not}): tune again, or remove it", file=sys.stderr)


def note_delivered(entry: LoaderResult, delivered: Delivered) -> None:
    """Write a run's rates into the plan files that a loader's entry came from, if they can be changed."""

    def add(loader: dict[str, Any]) -> None:
        loader["delivered"] = msgspec.to_builtins(delivered)

    for path, number in files_of(entry):
        _change(path, number, entry, add)


def _change(path: Path, number: int, entry: LoaderResult, change: Callable[[dict[str, Any]], None]) -> str:
    """Change an entry in the present content of the file, which may have changed since, and keep all its other keys.

    Returns why it can't be changed, empty if it was.
    """
    try:
        plan: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        loader = plan["loaders"][number]
        if (loader["name"], loader["site"]) != (entry.name, entry.site):
            return ""
        change(loader)
        replace_file(path, msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n")
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except (*DAMAGED_JSON, KeyError, IndexError, TypeError):
        # The file has been replaced since.
        return ""
    return ""
