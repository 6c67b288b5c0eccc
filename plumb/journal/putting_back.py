"""Restoration of the script's files from a journal when all processes of the script are gone."""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
import stat
from collections.abc import Collection

from plumb.core.files_outcome import FilesOutcome, UnkeptFile
from plumb.journal import records
from plumb.journal.comparing import Comparison, set_status
from plumb.journal.journal_paths import lstat
from plumb.journal.records import (
    ABSENT,
    BESIDE,
    FOLDER,
    GROWN,
    KEPT,
    MOVED,
    NOT_CHANGES,
    SCRATCH,
    STATUS,
    SYMLINK,
    UNKEPT,
    Record,
)

_ASIDE = ".from-tuning"


def put_back(journal: str, clean: bool, printed_to: Collection[tuple[int, int]] = ()) -> FilesOutcome:
    """Undo what a journal recorded, and return the outcome. No process of the script may run any more.

    A call after an interruption continues where the earlier one stopped.

    Args:
        journal: The journal's folder.
        clean: Remove what the script made, too.
        printed_to: Device and inode of files that the caller's own output goes to.

    Returns:
        The outcome; a file that could not be restored is among `not_put_back` with the reason.

    """
    return _PuttingBack(journal, printed_to).run(clean)


class _PuttingBack:
    def __init__(self, journal: str, printed_to: Collection[tuple[int, int]]) -> None:
        self._journal = journal
        self._records = records.read(journal)
        self._existed: dict[str, bool] = {}
        for record in self._records:
            if record["kind"] not in NOT_CHANGES:
                self._existed.setdefault(record["path"], record["kind"] != ABSENT)
        # Present paths of what the script made, with the inodes by which it is recognised.
        self._made: dict[str, int] = {}
        self._restored: set[str] = set()
        # Paths whose earlier content was restored as another inode.
        self._remade: set[str] = set()
        self._unkept: dict[str, str] = {}
        self._comparison = Comparison(journal, self._records, printed_to)

    def run(self, clean: bool) -> FilesOutcome:
        self._undo_all()
        self._remove_scratch()
        self._remove_folders_beside()
        comparison = self._comparison
        comparison.run(self._made, self._unkept)
        new = self._new()
        cleaned: list[str] = []
        if clean:
            cleaned, new = new, [path for path in new if not self._cleaned(path)]
        unkept = {**self._unkept, **comparison.unkept}
        return FilesOutcome(
            tuple(sorted((self._restored - comparison.appeared) | comparison.restored)),
            tuple(new),
            tuple(path for path in cleaned if path not in new),
            tuple(UnkeptFile(path, why) for path, why in sorted(unkept.items())),
            tuple(sorted(comparison.others, key=lambda file: file.path)),
            tuple(sorted(comparison.replaced)),
            comparison.kept_in if comparison.replaced else "",
            comparison.list_all(unkept),
        )

    def _cleaned(self, path: str) -> bool:
        return self._comparison.keep(path) if path.rstrip("/") in self._comparison.appeared else _removed(path)

    # ---- undoing

    def _undo_all(self) -> None:
        undone = os.path.join(self._journal, records.UNDONE)
        with open(undone, "ab+") as progress:
            progress.seek(0)
            done = {int(line) for line in progress.read().splitlines()}
            for number, record in reversed(list(enumerate(self._records))):
                if number in done:
                    continue
                try:
                    self._undo(record)
                except OSError as error:
                    kept = f"; its content is in {self._copy(record)}" if record.get("copy") else ""
                    self._unkept[record["path"]] = f"{(error.strerror or str(error)).lower()}{kept}"
                progress.write(b"%d\n" % number)
                progress.flush()

    def _undo(self, record: Record) -> None:
        kind, path = record["kind"], record["path"]
        if kind == KEPT:
            self._undo_kept(path, record)
        elif kind == GROWN:
            self._undo_grown(path, record)
        elif kind == UNKEPT:
            status = lstat(path)
            if status is None or not records.is_as_in(record, status):
                self._unkept[path] = record["why"]
        elif kind == ABSENT:
            self._undo_absent(path, record.get("companion"))
        elif kind == MOVED:
            self._undo_moved(path, record["to"], record)
        elif kind == FOLDER:
            if os.path.islink(path) or not os.path.isdir(path):
                self._clear(path)
                os.makedirs(path)
                self._remade.add(path)
            set_status(path, record)
        elif kind == SYMLINK:
            if not os.path.islink(path) or os.readlink(path) != record["target"]:
                self._clear(path)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.symlink(record["target"], path)
                os.utime(path, ns=(record["atime_ns"], record["mtime_ns"]), follow_symlinks=False)
                self._remade.add(path)
                self._restored.add(path)
        elif kind == STATUS and lstat(path) is not None:
            set_status(path, record)

    def _undo_absent(self, path: str, database: str | None) -> None:
        """Note what the script made at a path, or remove it if something else was there before that."""
        status = lstat(path)
        if status is None:
            return
        if self._existed[path] or (database and self._existed.get(database)):
            self._clear(path)
        else:
            self._made[path] = status.st_ino

    def _clear(self, path: str) -> None:
        """Make room at a path for what was there first: remove a file that the script made, or rename a folder."""
        status = lstat(path)
        if status is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(path)
            self._remade.discard(path)
            self._made.pop(path, None)
            return
        try:
            os.rmdir(path)
        except OSError:
            aside = f"{path}{_ASIDE}"
            os.rename(path, aside)
            self._moved(path, aside)
            self._made[aside] = status.st_ino
            return
        self._made.pop(path, None)

    def _moved(self, source: str, target: str) -> None:
        """Transfer what is known of paths at and below `source` to those at and below `target`."""
        if not os.path.isdir(target) or os.path.islink(target):
            if source in self._made:
                self._made[target] = self._made.pop(source)
            if source in self._remade:
                self._remade.remove(source)
                self._remade.add(target)
            return
        for path in [path for path in self._made if path == source or path.startswith(f"{source}/")]:
            self._made[target + path[len(source) :]] = self._made.pop(path)
        for path in [path for path in self._remade if path == source or path.startswith(f"{source}/")]:
            self._remade.remove(path)
            self._remade.add(target + path[len(source) :])

    def _undo_kept(self, path: str, record: Record) -> None:
        copy, status = self._copy(record), lstat(path)
        if not os.path.exists(copy):
            # The script was killed before it moved the file here, or this record was undone before.
            return
        if status is not None and stat.S_ISREG(status.st_mode):
            if record["how"] == "copy" and records.is_as_in(record, status):
                set_status(path, record)
                return
            if status.st_size == record["size"] and filecmp.cmp(copy, path, shallow=False):
                if status.st_ino != record["inode"]:
                    # The script replaced the file by one with the same content, which stands for it from now on.
                    self._remade.add(path)
                    self._made.pop(path, None)
                set_status(path, record)
                return
        is_file = status is not None and stat.S_ISREG(status.st_mode)
        if status is not None and is_file and status.st_nlink > 1 and status.st_ino == record["inode"]:
            # Written in place, so that the file's other names keep the same content.
            with open(copy, "rb") as source, open(path, "r+b") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.truncate()
        else:
            self._replace(path, copy)
            self._remade.add(path)
            self._made.pop(path, None)
        set_status(path, record)
        self._restored.add(path)

    def _replace(self, path: str, copy: str) -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            self._clear(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            os.rename(copy, path)
        except OSError:
            beside = f"{path}{_ASIDE}.part"
            with contextlib.suppress(OSError):
                os.unlink(beside)
            shutil.copy2(copy, beside)
            os.replace(beside, path)

    def _undo_grown(self, path: str, record: Record) -> None:
        status = lstat(path)
        if status is None or status.st_ino != record["inode"] or status.st_size < record["size"]:
            self._unkept[path] = "only its length was kept, as it was opened to be added to"
        elif not records.is_as_in(record, status):
            os.truncate(path, record["size"])
            set_status(path, record)
            self._restored.add(path)

    def _undo_moved(self, path: str, target: str, record: Record) -> None:
        if path in self._remade or _is_what_moves(record, lstat(path)):
            # The script's rename failed, or this record was undone before.
            return
        if target not in self._remade and not _is_what_moves(record, lstat(target)):
            self._unkept[path] = f"it was renamed to {target}, where it is no longer"
            return
        self._clear(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.rename(target, path)
        self._moved(target, path)
        self._restored.add(path)

    def _copy(self, record: Record) -> str:
        return os.path.join(self._journal, records.COPIES, record["copy"])

    # ---- new files

    def _remove_scratch(self) -> None:
        goes = {record["path"]: record["goes"] for record in self._records if record["kind"] == SCRATCH}
        for path, removed in goes.items():
            if removed and path in self._made:
                _removed(path)

    def _remove_folders_beside(self) -> None:
        """Remove the journal's folders on other file systems, unless one holds what could not be put back."""
        for record in self._records:
            if record["kind"] == BESIDE:
                with contextlib.suppress(OSError):
                    if not any(record["path"] in why for why in self._unkept.values()):
                        shutil.rmtree(record["path"])

    def _new(self) -> list[str]:
        """Return what the script made and left, with one entry for a new folder and all that is in it."""
        made = sorted(
            path for path, inode in self._made.items() if (status := lstat(path)) is not None and status.st_ino == inode
        )
        folders = [path for path in made if os.path.isdir(path) and not os.path.islink(path)]
        below = tuple(f"{folder}/" for folder in folders)
        return [f"{path}/" if path in folders else path for path in made if not path.startswith(below or ("\0",))]


def _is_what_moves(record: Record, status: os.stat_result | None) -> bool:
    """Return whether a file or folder is the one that a record says was renamed; inode numbers are reused."""
    if status is None or status.st_ino != record["inode"]:
        return False
    if record["is_folder"]:
        return stat.S_ISDIR(status.st_mode)
    return records.is_as_in(record, status)


def _removed(path: str) -> bool:
    """Remove a file, or a folder with all that is in it, and return whether it is gone."""
    path = path.rstrip("/")
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return lstat(path) is None
