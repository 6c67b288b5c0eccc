"""Failures of plumb's own code: one line for the user, and a report for plumb's makers without the user's names."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from plumb.core.errors import one_line
from plumb.core.log import logger
from plumb.host.user_folder import open_user_folder, user_folder
from plumb.instrument.call_site import is_library

_log = logger(__name__)

_FOLDER = "failures"
# Number of reports that are kept.
_KEPT = 20
_PLUMB = str(Path(__file__).parent.parent) + os.sep
_PATHS = re.compile(r"(?:~|\.{0,2})(?:/[^\s/:'\",)\]}]+)+/?")
_LONGEST_TEXT = 300
# Parts of a loader's entry in a plan that name files, functions or data of the user's.
_USERS = {"graph", "notes", "site", "name", "dataset", "folder", "way", "identity", "library", "undecided", "operator"}
_said: set[str] = set()


def is_plumbs(error: BaseException) -> bool:
    """Return whether plumb's own code raised the error itself, and neither the user's nor a library's code."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PLUMB)


def say(error: BaseException, consequence: str, plan: Any = None) -> None:
    """Print `sentence` on standard error, once for each consequence; the traceback goes to the log."""
    _log.debug("plumb itself failed; %s", consequence, exc_info=error)
    if consequence in _said or sys.stderr is None:
        return
    _said.add(consequence)
    with contextlib.suppress(OSError, ValueError):
        print(f"plumb: {sentence(error, consequence, plan)}", file=sys.stderr, flush=True)


def sentence(error: BaseException, consequence: str, plan: Any = None) -> str:
    """Write a report, and return a sentence with the error, its consequence, and the report's place.

    Never raises.

    Args:
        error: Error of plumb's code.
        consequence: Effect for the user.
        plan: Plan that was in use, or a loader's entry of one.
    """
    return f"plumb itself failed ({one_line(error)}); {consequence}.{place_of_report(error, plan)}"


def place_of_report(error: BaseException, plan: Any = None) -> str:
    """Write a report and return a sentence with its place; empty if none can be written. Never raises."""
    try:
        return f" A report for its makers is in {_written(report(error, plan))}"
    except Exception:
        return ""


def report(error: BaseException, plan: Any = None) -> str:
    """Return the report: versions, the traceback without the user's names and sources, and the plan without paths."""
    parts = [
        f"plumb failed on {time.strftime('%Y-%m-%d %H:%M:%S')}",
        "\n".join(f"{name} {version}" for name, version in _versions().items()),
        _traced(error),
    ]
    if plan is not None:
        parts.append(json.dumps(_anonymous(msgspec.to_builtins(plan)), indent=1))
    return "\n\n".join(parts) + "\n"


def _versions() -> dict[str, str]:
    from plumb.host.machine import Machine

    return {"Python": platform.python_version(), "system": platform.platform(), **Machine.detect().packages}


def _traced(error: BaseException) -> str:
    """Return the traceback of an error and of the errors that caused it."""
    lines: list[str] = []
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        lines += [*_calls(each.__traceback__), f"{type(each).__name__}: {_without_paths(str(each))}"]
        each = each.__cause__ or each.__context__
        lines += ["while this was handled, or because of it:"] if each is not None else []
    return "\n".join(lines)


def _calls(trace: TracebackType | None) -> list[str]:
    return [
        f"  {_place(summary.filename)}:{summary.lineno} in {summary.name}  {summary.line or ''}".rstrip()
        if is_library(summary.filename)
        else f"  the user's code:{summary.lineno}"
        for summary in traceback.extract_tb(trace)
    ]


def _place(file: str) -> str:
    """Return a library's file, relative to the folder that contains its package."""
    for folder in (_PLUMB.removesuffix("plumb" + os.sep), "/site-packages/", "/dist-packages/"):
        if folder in file:
            return file.rpartition(folder)[2]
    return "/".join(Path(file).parts[-2:])


def _without_paths(text: str) -> str:
    return _PATHS.sub("PATH", text)[:_LONGEST_TEXT]


def _anonymous(value: Any) -> Any:
    """Return a plan's values without those that name something of the user's."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in _USERS and "file" not in str(key)}
        return {key: _anonymous(item) for key, item in kept.items() if key not in ("script", "host", "model")}
    if isinstance(value, (list, tuple)):
        return [_anonymous(item) for item in value]
    return _without_paths(value) if isinstance(value, str) else value


def _written(text: str) -> Path:
    """Write a report, readable by the user only, into the user's cache folder; return its path.

    Raises OSError and StoreError.
    """
    path = user_folder() / _FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{len(_said)}.txt"
    folder = open_user_folder(_FOLDER)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path.name, flags, 0o600, dir_fd=folder), "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        for old in sorted(os.listdir(folder))[:-_KEPT]:
            os.unlink(old, dir_fd=folder)
    finally:
        os.close(folder)
    return path
