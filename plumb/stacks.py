"""Where a process was: the calls in a dump by `faulthandler`, without those of libraries."""

from __future__ import annotations

import re
from pathlib import Path

from plumb.site import is_library

_CALL = re.compile(r'File "(.+)", line (\d+) in (.+)')
# A dump that is made by itself after some time begins with this; one that was asked for doesn't.
_DUMP = "Timeout ("
# A forked worker's stack goes on to the script that started it; its own part ends here.
_WORKER_LOOP = "_worker_loop"
_IMPORTS, _RANKS = "<frozen importlib.", "/torch/distributed/"


def calls(dumps: str) -> tuple[str, ...]:
    """The main thread's calls of the user's code, the innermost first; another thread's where it has none.

    Of several dumps, the last counts.
    """
    # The main thread comes last.
    return next((found for thread in reversed(_threads(dumps)) if (found := _users(thread))), ())


def is_starting(dumps: str) -> bool:
    """Whether the user's code waited for an import of something else in the last dump, or for other ranks.

    What a module of the user's does while it is imported is no such waiting, unless it imports in its turn.
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
