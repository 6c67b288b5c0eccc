"""Read positions in files: of all descriptors of this process, and of a dataset's handles."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from typing import Any

_DESCRIPTORS = "/proc/self/fd"

Positions = dict[tuple[int, str], int]


def positions(handles: Sequence[Any]) -> Positions:
    """Return the position of each open regular file, by descriptor and path, and that of each of `handles`.

    A handle is an object with a `tell`, such as a file that Python reads ahead of the code.
    """
    found: Positions = {}
    for name in os.listdir(_DESCRIPTORS) if os.path.isdir(_DESCRIPTORS) else ():
        # One of them was open only to list the others.
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.fstat(int(name)).st_mode):
                path = os.readlink(f"{_DESCRIPTORS}/{name}")
                found[int(name), path] = os.lseek(int(name), 0, os.SEEK_CUR)
    for handle in handles:
        # A handle may be closed, or refuse `tell` now.
        with contextlib.suppress(Exception):
            found[-id(handle), f"a {type(handle).__name__}"] = handle.tell()
    return found


def moved(before: Positions, after: Positions) -> set[tuple[int, str]]:
    """Return the files open before and after whose position differs."""
    return {key for key, place in after.items() if key in before and before[key] != place}
