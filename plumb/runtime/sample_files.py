"""Files that samples were seen to read: whether somebody has changed one."""

from __future__ import annotations

import os

from plumb.runtime.opened import OpenedFile
from plumb.runtime.sample_effects import Effects


class SampleFiles:
    """The files that a few samples have opened, such as one with the labels of all of them.

    What samples keep of a file is read anew where that was cleared, which a process without samples can't see: a file
    that is another between epochs is taken for one that is to be read. Within an epoch, what was kept is still in use.
    """

    def __init__(self) -> None:
        self._files: list[OpenedFile] = []
        self._again: frozenset[bytes] = frozenset()

    def follow(self, effects: Effects) -> None:
        """Look after the files that were opened for samples."""
        known = {file.path for file in self._files}
        self._files += [file for file in effects.files if file.path not in known]
        self._again |= {file.path for file in effects.again}

    def changed(self) -> str:
        """Return the name of a file that is another than at the call before, or when it was opened; else nothing."""
        before, self._files = self._files, [file.looked_at() for file in self._files]
        pairs = zip(before, self._files, strict=True)
        return next((_name(now) for file, now in pairs if file != now), "")

    def changed_again(self) -> str:
        """Return the name of such a file among those that are opened for each sample, or nothing."""
        return next((_name(file) for file in self._files if file.path in self._again and not file.is_unchanged), "")


def _name(file: OpenedFile) -> str:
    return f"the file {os.path.basename(os.fsdecode(file.path))}"
