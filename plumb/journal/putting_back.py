"""Restoration of the script's files from a journal when all processes of the script are gone."""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
import stat
from collections.abc import Collection, Iterable

from plumb.core.files_outcome import FilesOutcome, UnkeptFile
from plumb.journal import records, snapshot
from plumb.journal.records import (
    ABSENT,
    BESIDE,
    FOLDER,
    GROWN,
    KEPT,
    MOVED,
    PROGRAM,
    SCRATCH,
    SEEN,
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
        self._printed_to = printed_to
        self._records = records.read(journal)
        self._existed: dict[str, bool] = {}
        for record in self._records:
            if record["kind"] not in (SCRATCH, PROGRAM, SEEN, BESIDE):
                self._existed.setdefault(record["path"], record["kind"] != ABSENT)
        # Present paths of what the script made, with the inodes by which it is recognised.
        self._made: dict[str, int] = {}
        self._restored: set[str] = set()
        # Paths whose earlier content was restored as another inode.
        self._remade: set[str] = set()
        self._unkept: dict[str, str] = {}
        self._others: list[UnkeptFile] = []

    def run(self, clean: bool) -> FilesOutcome:
        self._undo_all()
        self._remove_scratch()
        self._remove_folders_beside()
        new = self._new()
        self._compare(new)
        cleaned: list[str] = []
        if clean:
            cleaned, new = new, [path for path in new if not _removed(path)]
        return FilesOutcome(
            tuple(sorted(self._restored)),
            tuple(new),
            tuple(path for path in cleaned if path not in new),
            tuple(UnkeptFile(path, why) for path, why in sorted(self._unkept.items())),
            tuple(sorted(self._others, key=lambda file: file.path)),
        )

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
            status = _lstat(path)
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
            _set_status(path, record)
        elif kind == SYMLINK:
            if not os.path.islink(path) or os.readlink(path) != record["target"]:
                self._clear(path)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.symlink(record["target"], path)
                self._remade.add(path)
                self._restored.add(path)
        elif kind == STATUS and _lstat(path) is not None:
            _set_status(path, record)

    def _undo_absent(self, path: str, database: str | None) -> None:
        """Note what the script made at a path, or remove it if something else was there before that."""
        status = _lstat(path)
        if status is None:
            return
        if self._existed[path] or (database and self._existed.get(database)):
            self._clear(path)
        else:
            self._made[path] = status.st_ino

    def _clear(self, path: str) -> None:
        """Make room at a path for what was there first: remove a file that the script made, or rename a folder."""
        status = _lstat(path)
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
        copy, status = self._copy(record), _lstat(path)
        if not os.path.exists(copy):
            # The script was killed before it moved the file here, or this record was undone before.
            return
        if status is not None and stat.S_ISREG(status.st_mode):
            if record["how"] == "copy" and records.is_as_in(record, status):
                _set_status(path, record)
                return
            if status.st_size == record["size"] and filecmp.cmp(copy, path, shallow=False):
                if status.st_ino != record["inode"]:
                    # The script replaced the file by one with the same content, which stands for it from now on.
                    self._remade.add(path)
                    self._made.pop(path, None)
                _set_status(path, record)
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
        _set_status(path, record)
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
        status = _lstat(path)
        if status is None or status.st_ino != record["inode"] or status.st_size < record["size"]:
            self._unkept[path] = "only its length was kept, as it was opened to be added to"
        elif not records.is_as_in(record, status):
            os.truncate(path, record["size"])
            _set_status(path, record)
            self._restored.add(path)

    def _undo_moved(self, path: str, target: str, record: Record) -> None:
        if path in self._remade or _is_what_moves(record, _lstat(path)):
            # The script's rename failed, or this record was undone before.
            return
        if target not in self._remade and not _is_what_moves(record, _lstat(target)):
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
            path
            for path, inode in self._made.items()
            if (status := _lstat(path)) is not None and status.st_ino == inode
        )
        folders = [path for path in made if os.path.isdir(path) and not os.path.islink(path)]
        below = tuple(f"{folder}/" for folder in folders)
        return [f"{path}/" if path in folders else path for path in made if not path.startswith(below or ("\0",))]

    # ---- changes without an event

    def _compare(self, new: Iterable[str]) -> None:
        folders, ignored, listed = snapshot.read(self._journal)
        known = (
            set(self._existed) | set(self._made) | {record["to"] for record in self._records if record["kind"] == MOVED}
        )
        below = tuple(path for path in new if path.endswith("/"))
        now = {path: status for path, status in snapshot.files_below(folders, ignored) if path not in known}
        for path, facts in listed.items():
            status = now.get(path) or _lstat(path)
            if path in known or self._is_printed_to(status) or (status and _looks_as_in(facts, status)):
                continue
            self._changed_unseen(path, facts)
        since = os.stat(os.path.join(self._journal, records.SNAPSHOT)).st_ctime if listed or now else 0.0
        for path, status in now.items():
            is_new = path not in listed and status.st_ctime >= since - 0.01 and "/__pycache__/" not in path
            if is_new and not path.startswith(below or ("\0",)) and not self._is_printed_to(status):
                self._others.append(UnkeptFile(path, "appeared during the tuning, perhaps by another process"))

    def _is_printed_to(self, status: os.stat_result | None) -> bool:
        return status is not None and (status.st_dev, status.st_ino) in self._printed_to

    def _changed_unseen(self, path: str, facts: Record) -> None:
        """Restore a file whose change only the comparison shows, if a process of the script wrote it.

        Undoing another process's change would be worse than leaving the script's. So if no writer is known, the file
        stays, and its earlier state is kept beside plumb's other files.
        """
        copy = facts.get("copy")
        if copy is not None and self._is_same(path, self._copy(facts)):
            return
        if copy is not None and self._was_written_by_script(path):
            try:
                self._undo_kept(path, {**facts, "how": "copy"})
            except OSError as error:
                self._unkept[path] = (error.strerror or str(error)).lower()
        elif self._was_written_by_script(path):
            self._unkept[path] = "another program wrote it, and there is no copy"
        elif copy is not None:
            earlier = os.path.join(os.path.dirname(self._journal), f"earlier-{os.path.basename(self._journal)}")
            kept = os.path.join(earlier, path.lstrip(os.sep))
            with contextlib.suppress(OSError):
                os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
                shutil.move(self._copy(facts), kept)
            why = f"changed during the tuning, perhaps by another process (earlier states are kept in {earlier})"
            self._others.append(UnkeptFile(path, why))
        else:
            self._others.append(UnkeptFile(path, "changed during the tuning, perhaps by another process"))

    def _is_same(self, path: str, copy: str) -> bool:
        """Return whether a file was only rewritten with the same content."""
        with contextlib.suppress(OSError):
            return os.path.isfile(path) and filecmp.cmp(path, copy, shallow=False)
        return False

    def _was_written_by_script(self, path: str) -> bool:
        name = os.path.basename(path)
        return any(
            (record["kind"] == SEEN and record["path"] == path)
            or (record["kind"] == PROGRAM and any(name in word for word in record["words"]))
            for record in self._records
        )


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _is_what_moves(record: Record, status: os.stat_result | None) -> bool:
    """Return whether a file or folder is the one that a record says was renamed; inode numbers are reused."""
    if status is None or status.st_ino != record["inode"]:
        return False
    if record["is_folder"]:
        return stat.S_ISDIR(status.st_mode)
    return records.is_as_in(record, status)


def _looks_as_in(facts: Record, status: os.stat_result) -> bool:
    # The inode may differ: a file restored in a folder that was renamed and restored is a new one.
    return (facts["size"], facts["mtime_ns"]) == (status.st_size, status.st_mtime_ns)


def _set_status(path: str, record: Record) -> None:
    status = os.stat(path)
    if (status.st_uid, status.st_gid) != (record["uid"], record["gid"]):
        os.chown(path, record["uid"], record["gid"])
    if status.st_mode & 0o7777 != record["mode"]:
        os.chmod(path, record["mode"])
    if status.st_mtime_ns != record["mtime_ns"]:
        os.utime(path, ns=(record["atime_ns"], record["mtime_ns"]))


def _removed(path: str) -> bool:
    """Remove a file, or a folder with all that is in it, and return whether it is gone."""
    path = path.rstrip("/")
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return _lstat(path) is None
