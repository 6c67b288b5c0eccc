"""Whether workers may be forked from a process that has read samples itself.

A file that the dataset keeps open in the main process would be shared by all forked workers, its position included, and
they would read each other's bytes. And what a dataset changes in itself while it is read would come apart in copies of
it. Both show in the loop's own first batches, so no sample is read for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from plumb.profile.randomness import generator_states
from plumb.runtime.held import Held

# So many of the loop's batches are looked at closely. What the first one changes may be set up once and for all.
_LOOKED_AT = 3
_OPEN_FILES = "/proc/self/fd"


class MainReads:
    """What reading samples in this process does to the process and to the dataset.

    `reason` says why samples must go on being read here, None where nothing speaks against workers.
    """

    def __init__(self) -> None:
        is_shown = os.path.isdir(_OPEN_FILES)
        self.reason = None if is_shown else "this system doesn't show which files are open in a process"
        self._batches = 0
        self._files: dict[tuple[str, str], int] = {}
        self._held: Held | None = None
        self._before: Any = None

    @property
    def is_looking(self) -> bool:
        """Whether what the dataset sets up for its first samples may not be complete yet."""
        return self._batches <= _LOOKED_AT

    @contextmanager
    def looking(self, dataset: Any) -> Iterator[None]:
        """Looks at what happens inside, where one batch is made in this process."""
        if self.reason is not None:
            yield
            return
        closely = self._batches < _LOOKED_AT
        if closely:
            self._files = _positions()
        # To count what is open takes microseconds, to look at it hundreds.
        count = len(os.listdir(_OPEN_FILES))
        yield
        self._batches += 1
        if closely or len(os.listdir(_OPEN_FILES)) > count:
            self._compare()
        if closely and self.reason is None:
            self._look(dataset)

    def _compare(self) -> None:
        """Finds what was opened, or read further."""
        moved = [file for file, place in _positions().items() if self._files.get(file) != place]
        if moved:
            self.reason = f"the dataset keeps {moved[-1][1]} open, which forked workers would share"

    def _look(self, dataset: Any) -> None:
        if self._held is None:
            self._held = Held(dataset)
            self._before = self._held.state(), generator_states(self._held.generators)[3:]
            return
        changed = self._held.changed(self._before[0])
        if changed:
            self.reason = f"reading changes {changed}, and workers would each change their own"
        elif generator_states(self._held.generators)[3:] != self._before[1]:
            self.reason = "the dataset holds a random generator, and workers would each draw from a copy"


def _positions() -> dict[tuple[str, str], int]:
    """The descriptors that are open for reading, with what they lead to, and the places that regular files are at."""
    found: dict[tuple[str, str], int] = {}
    for name in os.listdir(_OPEN_FILES):
        descriptor = int(name)
        # One of them was only open for the list of all.
        with contextlib.suppress(OSError):
            path = os.readlink(f"{_OPEN_FILES}/{name}")
            if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY:
                is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
                found[name, path] = os.lseek(descriptor, 0, os.SEEK_CUR) if is_file else 0
    return found
