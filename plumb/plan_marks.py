"""Marks in plan files: an entry that a run has found to be wrong is not used again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from plumb.errors import DAMAGED_JSON
from plumb.plan import LoaderPlan, files_of, replace_file


def mark_unsafe(entry: LoaderPlan, reason: str) -> None:
    """Mark a loader's entry in the plan files that it came from, so that the next run does not use it.

    A file that can't be changed is named in one line on standard error.
    """
    for path, number in files_of(entry):
        _mark(path, number, entry, reason)


def _mark(path: Path, number: int, entry: LoaderPlan, reason: str) -> None:
    """Add the mark to the file as it is now, whoever has changed it since, with all keys that it has."""
    try:
        _add_mark(path, number, entry, reason)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        print(f"plumb: {path} can't be marked ({why}): tune again, or remove it", file=sys.stderr)


def _add_mark(path: Path, number: int, entry: LoaderPlan, reason: str) -> None:
    try:
        plan: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        loader = plan["loaders"][number]
        if (loader["name"], loader["site"]) != (entry.name, entry.site):
            return
    except (*DAMAGED_JSON, KeyError, IndexError, TypeError):
        # It is another file by now.
        return
    loader["unsafe"] = reason
    loader["notes"] = [*loader.get("notes", ()), f"Not used any more: {reason}. Tune again."]
    replace_file(path, msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n")
