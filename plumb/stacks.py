"""Where a process was: the calls in a dump by `faulthandler`, without those of libraries."""

from __future__ import annotations

import re
from pathlib import Path

from plumb.site import is_library

# A forked worker's stack goes on to the script that started it; its own part ends here.
_WORKER_LOOP = "_worker_loop"


def calls(dump: str) -> tuple[str, ...]:
    """The main thread's calls of the user's code, the innermost first; another thread's where it has none."""
    threads = [part for part in dump.split("\n\n") if "(most recent call first)" in part]
    # The main thread comes last.
    return next((found for thread in reversed(threads) if (found := _users(thread))), ())


def _users(thread: str) -> tuple[str, ...]:
    found = []
    for file, line, name in re.findall(r'File "(.+)", line (\d+) in (.+)', thread):
        if name == _WORKER_LOOP:
            break
        if not is_library(file):
            found.append(f"{Path(file).name}:{line} in {name}")
    return tuple(found)
