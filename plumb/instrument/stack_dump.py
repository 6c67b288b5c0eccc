"""Calls of a process from a dump by `faulthandler`, without those of libraries."""

from __future__ import annotations

import re
from pathlib import Path

from plumb.instrument.call_site import is_library

_CALL = re.compile(r'File "(.+)", line (\d+) in (.+)')
# A dump after a timeout begins with this; a requested one doesn't.
_DUMP = "Timeout ("
# A forked worker's stack continues to the script that started it; its own part ends here.
_WORKER_LOOP = "_worker_loop"
_IMPORTS, _RANKS = "<frozen importlib.", "/torch/distributed/"


def calls(dumps: str) -> tuple[str, ...]:
    """Return the main thread's calls of the user's code, the innermost first; another thread's if it has none.

    Only the last of several dumps counts.
    """
    # Dumps list the main thread last.
    return next((found for thread in reversed(_threads(dumps)) if (found := _users(thread))), ())


def is_starting(dumps: str) -> bool:
    """Return whether the user's code waited for an import, or for other ranks, in the last dump.

    Code of the user's module that runs during its own import is no waiting, unless that module imports something
    itself.
    """
    for file, _, _ in _CALL.findall("".join(_threads(dumps)[-1:])):
        if file.startswith(_IMPORTS) or _RANKS in file:
            return True
        if not is_library(file):
            return False
    return False


def _threads(dumps: str) -> list[str]:
    last = dumps.rpartition(_DUMP)[2]
    return [part for part in last.split("\n\n") if "(most recent call first)" in part]


def _users(thread: str) -> tuple[str, ...]:
    found = []
    for file, line, name in _CALL.findall(thread):
        if name == _WORKER_LOOP:
            break
        if not is_library(file):
            found.append(f"{Path(file).name}:{line} in {name}")
    return tuple(found)
