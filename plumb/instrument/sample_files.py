"""Files that samples have read: detection of changes."""

from __future__ import annotations

import os

from plumb.instrument.opened_files import OpenedFile
from plumb.instrument.sample_effects import Effects


class SampleFiles:
    """Files that a few samples have opened, such as one with the labels of all samples.

    What samples keep of a file is reread only after they cleared it, which is invisible to a process without samples: a
    file that changed between epochs is taken to be reread. Within an epoch, the kept content is taken to be in use.
    """

    def __init__(self) -> None:
        self._files: list[OpenedFile] = []
        self._again: frozenset[bytes] = frozenset()

    def follow(self, effects: Effects) -> None:
        """Watch the files that were opened for samples."""
        known = {file.path for file in self._files}
        self._files += [file for file in effects.files if file.path not in known]
        self._again |= {file.path for file in effects.again}

    def changed(self) -> str:
        """Return the name of a file that differs from the previous call, or from when it was opened; empty for none."""
        before, self._files = self._files, [file.looked_at() for file in self._files]
        pairs = zip(before, self._files, strict=True)
        return next((_name(now) for file, now in pairs if file != now), "")

    def changed_again(self) -> str:
        """Return the name of a changed file among those that are opened for each sample, else an empty text."""
        return next((_name(file) for file in self._files if file.path in self._again and not file.is_unchanged), "")


def _name(file: OpenedFile) -> str:
    return f"the file {os.path.basename(os.fsdecode(file.path))}"
