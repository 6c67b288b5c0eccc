"""The states of paths as the records of a journal give them: which of them can be restored already."""

from __future__ import annotations

import os

from plumb.journal.journal_paths import is_within
from plumb.journal.records import ABSENT, BESIDE, GROWN, KEPT, MOVED, NOT_CHANGES, STATUS, Record


class KnownPaths:
    """State of paths after the records that were read or written so far."""

    def __init__(self) -> None:
        # Paths whose state can be restored whatever happens to them from now on; False if the path may only grow.
        self.safe: dict[str, bool] = {}
        # Paths of what the script made, and paths to which it has moved what was there before.
        self.new: set[str] = set()
        self.moved_to: set[str] = set()
        self.safe_status: set[str] = set()
        self.beside: dict[int, str] = {}
        # Second names of files that are kept by one, by device and inode.
        self.by_link: dict[tuple[int, int], str] = {}

    def is_safe(self, path: str, appends: bool) -> bool:
        """Return whether what is at a path can be restored, whatever happens to it, or if it only grows (`appends`)."""
        return path in self.safe if appends else self.safe.get(path, False)

    def is_new(self, path: str) -> bool:
        """Return whether all that is at the path was made by the script."""
        if path in self.moved_to:
            return False
        if os.path.isdir(path) and any(is_within(moved, path) for moved in self.moved_to):
            return False
        while path not in self.new and path not in self.moved_to and os.path.dirname(path) != path:
            path = os.path.dirname(path)
        return path in self.new

    def heed(self, record: Record) -> None:
        """Update the known state of paths by a record."""
        kind, path = record["kind"], record["path"]
        if kind == BESIDE:
            self.beside[record["device"]] = path
        if kind in NOT_CHANGES:
            return
        if kind == ABSENT:
            self.new.add(path)
        if kind == KEPT and record["how"] == "link":
            self.by_link[record["device"], record["inode"]] = record["copy"]
        if kind == STATUS:
            self.safe_status.add(path)
        elif kind == GROWN:
            self.safe[path] = False
        elif kind == MOVED and record["is_folder"]:
            self._heed_moved_folder(path, record["to"])
        elif kind == MOVED:
            target = record["to"]
            # The target now holds the user's file, which is no longer safe there. Mode and times at the source are not
            # safe either, because the rename may still fail.
            self.safe.pop(target, None)
            self.safe_status -= {path, target}
            self.new.discard(target)
            self.moved_to.discard(path)
            self.moved_to.add(target)
        else:
            self.safe[path] = True

    def _heed_moved_folder(self, path: str, target: str) -> None:
        """Update the known state of all paths in a folder that is renamed."""
        self.safe = {known: safe for known, safe in self.safe.items() if not is_within(known, target)}
        ends = (path, target)
        self.safe_status = {known for known in self.safe_status if not any(is_within(known, e) for e in ends)}
        self.new = {known for known in self.new if not is_within(known, target)}
        moved = {target + known[len(path) :] for known in self.moved_to if is_within(known, path)}
        self.moved_to = {known for known in self.moved_to if not is_within(known, path)} | moved | {target}
