"""Comparison of the script's folders with their listing from before the tuning, for changes without an audit event.

A change that no record explains counts as the script's if a process of the script was seen to write the file, or if a
program that the script started ran when it happened. In the latter case, another process may have made it after all, so
what is there is kept. All other changes are left as they are.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
import stat
from collections.abc import Collection

from plumb.core.files_outcome import UnkeptFile
from plumb.journal import records, snapshot
from plumb.journal.copying import check_room
from plumb.journal.journal_paths import lstat
from plumb.journal.program_times import ProgramTimes
from plumb.journal.records import KEPT, MOVED, NOT_CHANGES, PROGRAM, SEEN, STATUS, Record
from plumb.journal.seen import open_now
from plumb.journal.snapshot import FILE, FOLDER, LINK

_BY_ANOTHER = "during the tuning, perhaps by another process"
# The user may edit these while a program of the script runs, which hardly ever writes them.
_EDITED_BY_HAND = (".ipynb", ".md", ".py")
# Files of a tuning whose outcome names more than this are listed in a file.
_NAMED_AT_MOST = 20


class Comparison:
    """Differences between the script's folders and their listing, made before anything is undone.

    Args:
        journal: The journal's folder.
        found: Its records.
        printed_to: Device and inode of files that the caller's own output goes to.

    """

    def __init__(self, journal: str, found: Collection[Record], printed_to: Collection[tuple[int, int]]) -> None:
        self._journal = journal
        self._printed_to = printed_to
        self._listing = snapshot.read(journal)
        self._programs = ProgramTimes(found)
        self._seen = {record["path"] for record in found if record["kind"] == SEEN}
        self._words = [word for record in found if record["kind"] == PROGRAM for word in record["words"]]
        # When the states that the records restore were made.
        self._recorded_at: dict[str, list[float]] = {}
        self._is_kept = {record["path"] for record in found if record["kind"] in (FOLDER, KEPT, MOVED)}
        for record in found:
            if record["kind"] not in NOT_CHANGES:
                times = self._recorded_at.setdefault(record["path"], [])
                if "changed_at" in record:
                    times.append(record["changed_at"])
        self._puts_times_back = any(record["kind"] == STATUS for record in found)
        self._targets = {record["to"] for record in found if record["kind"] == MOVED}
        # Undoing changes the times of folders.
        self._changed_at = {path: _changed_at(path) for path in self._listing.entries}
        self._parents = {os.path.dirname(path) for path in self._listing.entries}
        self._open: set[str] | None = None
        self._moved: dict[tuple[int, int, int, int], str] = {}
        self._left_empty: set[str] = set()
        self._folders: list[str] = []
        self._is_sure = False
        earlier = f"earlier-{os.path.basename(journal)}"
        self.earlier = os.path.join(os.path.dirname(journal), earlier)
        """Folder for earlier states of what was left alone, and for present states of what was not."""
        self.restored: set[str] = set()
        self.unkept: dict[str, str] = {}
        self.others: list[UnkeptFile] = []
        self.replaced: set[str] = set()
        """Paths of which the present state was kept, because only the time says that its change was the script's."""
        self.appeared: set[str] = set()
        """New paths of which only the time says that the script made them."""
        self.kept_in = os.path.join(self.earlier, "replaced")
        """Folder with these states."""

    def run(self, made: dict[str, int], unkept: dict[str, str]) -> None:
        """Restore what the records did not, after they were undone.

        Args:
            made: Paths of what the script made with their inodes; brought up to date.
            unkept: Paths that the records could not restore, with the reason; those that a copy restores are removed.

        """
        self._find_new(made)
        for path, facts in sorted(self._listing.entries.items()):
            status = lstat(path)
            is_new_file = made.pop(path, None) is not None and facts["kind"] == FILE
            if self._is_printed_to(status) or (not is_new_file and self._is_same(path, facts, status)):
                self._restore_time_of_link(path, facts)
                continue
            if path in unkept and facts["kind"] == FILE and "copy" not in facts:
                continue
            if self._has_only_another_time(path, facts, status):
                continue
            if not self._is_by_script(path, status, is_new_file, path in unkept):
                self._leave(path, facts, status)
                continue
            try:
                self._restore(path, facts, status)
                unkept.pop(path, None)
            except OSError as error:
                copy = f"; its content is in {self._copy(facts)}" if "copy" in facts else ""
                self.unkept[path] = f"{(error.strerror or str(error)).lower()}{copy}"
        named = {os.path.dirname(path) for path in self.restored}
        for path in sorted(self._folders, reverse=True):
            with contextlib.suppress(OSError):
                set_status(path, self._listing.entries[path])
            # The name of what was restored in a folder stands for the folder, too.
            if path not in named:
                self.restored.add(f"{path}/")
            named.add(os.path.dirname(path))
        self._remove_emptied(made)

    def list_all(self, unkept: Collection[str]) -> str:
        """Write the paths of what is not as it was into a file, if they are many; return its path, or ''."""
        paths = sorted({*unkept, *(file.path for file in self.others)})
        if len(paths) <= _NAMED_AT_MOST:
            return ""
        with contextlib.suppress(OSError):
            os.makedirs(self.earlier, mode=0o700, exist_ok=True)
            name = os.path.join(self.earlier, "left.txt")
            with open(name, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(f"{path}\n" for path in paths)
            return name
        return ""

    # ---- what is new

    def _find_new(self, made: dict[str, int]) -> None:
        """Find entries that appeared without a record, and files that were moved from listed paths."""
        listed = self._listing.entries
        if not self._listing.folders:
            return
        now, _ = snapshot.entries_below(self._listing.folders, self._listing.ignored)
        since = os.stat(os.path.join(self._journal, records.SNAPSHOT)).st_ctime
        folders = tuple(f"{path}/" for path in made if os.path.isdir(path) and not os.path.islink(path))
        for path, status in sorted(now.items()):
            if path in listed:
                continue
            if stat.S_ISREG(status.st_mode):
                self._moved[_identity(records.status_of(status))] = path
            times = [at for at in self._recorded_at.get(path, [status.st_ctime]) if at >= since - 0.01]
            was_moved_here = path in self._targets and path not in self._recorded_at
            if not times or was_moved_here or path in made or self._is_printed_to(status):
                continue
            if path.startswith(folders or ("\0",)):
                continue
            if self._listing.is_whole and self._is_in_time(path, times, status):
                made[path] = status.st_ino
                self.appeared.add(path)
                if stat.S_ISDIR(status.st_mode):
                    folders = (*folders, f"{path}/")
            elif not stat.S_ISDIR(status.st_mode):
                self.others.append(UnkeptFile(path, f"appeared {_BY_ANOTHER}"))

    def _remove_emptied(self, made: dict[str, int]) -> None:
        """Remove new folders from which all files were moved back."""
        for path in sorted(self._left_empty, reverse=True):
            with contextlib.suppress(OSError):
                while path not in self._listing.entries and path not in self._listing.folders:
                    os.rmdir(path)
                    made.pop(path, None)
                    self.appeared.discard(path)
                    path = os.path.dirname(path)

    # ---- whose change it is

    def _is_by_script(self, path: str, status: os.stat_result | None, is_new_file: bool, is_unkept: bool) -> bool:
        self._is_sure = is_new_file or path in self._seen
        if self._is_sure:
            return True
        at = self._changed_at[path]
        if status is None:
            # Later changes of the folder hide when the entry went. Restoring it destroys nothing.
            return self._programs.begin_before(at)
        times = [*self._recorded_at.get(path, ()), *(() if path in self._is_kept and not is_unkept else (at,))]
        return self._is_in_time(path, times, status, self._is_content_same(path, self._listing.entries[path], status))

    def _is_in_time(
        self, path: str, times: Collection[float], status: os.stat_result, has_other_rights: bool = False
    ) -> bool:
        if not any(map(self._programs.contain, times)):
            return False
        by_hand = path.endswith(_EDITED_BY_HAND) and not has_other_rights
        if by_hand and not any(os.path.basename(path) in word for word in self._words):
            return False
        if self._open is None:
            self._open = open_now()
        return stat.S_ISDIR(status.st_mode) or path not in self._open

    def _is_printed_to(self, status: os.stat_result | None) -> bool:
        return status is not None and (status.st_dev, status.st_ino) in self._printed_to

    def _has_only_another_time(self, path: str, facts: Record, status: os.stat_result | None) -> bool:
        """Restore the time of a file that was only rewritten with the same content; return whether it is one."""
        if status is None or not stat.S_ISREG(status.st_mode) or not self._holds_the_same(path, facts):
            return False
        if not self._is_same(path, {**facts, "mtime_ns": status.st_mtime_ns}, status):
            return False
        if self._programs.contain(self._changed_at[path]):
            with contextlib.suppress(OSError):
                set_status(path, facts)
        return True

    def _restore_time_of_link(self, path: str, facts: Record) -> None:
        if facts["kind"] == LINK and (path in self._recorded_at or self._programs.contain(self._changed_at[path])):
            with contextlib.suppress(OSError):
                os.utime(path, ns=(facts["atime_ns"], facts["mtime_ns"]), follow_symlinks=False)

    def _is_same(self, path: str, facts: Record, status: os.stat_result | None) -> bool:
        """Return whether an entry looks as it was listed."""
        if status is None:
            return False
        if facts["kind"] == LINK:
            return stat.S_ISLNK(status.st_mode) and os.readlink(path) == facts["target"]
        rights = (facts["mode"], facts["uid"], facts["gid"]) == (status.st_mode & 0o7777, status.st_uid, status.st_gid)
        if facts["kind"] == FOLDER:
            return rights and stat.S_ISDIR(status.st_mode)
        return rights and self._is_content_same(path, facts, status)

    def _is_content_same(self, path: str, facts: Record, status: os.stat_result) -> bool:
        if not stat.S_ISREG(status.st_mode) or _identity(facts)[2:] != (status.st_size, status.st_mtime_ns):
            return False
        # The inode may differ: a file restored in a folder that was renamed and restored is a new one. A time that was
        # put back, by this or another name, says nothing of the content.
        has_told_time = not self._puts_times_back or path not in self._recorded_at
        is_told = has_told_time and facts["inode"] == status.st_ino
        return is_told or "copy" not in facts or self._holds_the_same(path, facts)

    def _holds_the_same(self, path: str, facts: Record) -> bool:
        with contextlib.suppress(OSError):
            return "copy" in facts and filecmp.cmp(path, self._copy(facts), shallow=False)
        return False

    # ---- restoring

    def _restore(self, path: str, facts: Record, status: os.stat_result | None) -> None:
        kind = facts["kind"]
        if kind == FOLDER:
            if status is None or not stat.S_ISDIR(status.st_mode):
                self._make_room(path)
                os.makedirs(path)
            # Now, because nothing below is accessible otherwise, and again at the end, because its times change.
            set_status(path, facts)
            self._folders.append(path)
            return
        if kind == LINK:
            self._make_room(path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink(facts["target"], path)
            os.utime(path, ns=(facts["atime_ns"], facts["mtime_ns"]), follow_symlinks=False)
        elif not self._restore_file(path, facts, status):
            return
        self.restored.add(path)

    def _restore_file(self, path: str, facts: Record, status: os.stat_result | None) -> bool:
        is_file = status is not None and stat.S_ISREG(status.st_mode)
        moved = self._moved.pop(_identity(facts), None)
        if status is not None and is_file and self._is_content_same(path, facts, status):
            set_status(path, facts)
            return True
        if moved is not None and lstat(moved) is not None:
            if moved.startswith(f"{path}/"):
                # Its present folder has to go from its own path.
                aside = f"{path}.plumb-{os.getpid()}"
                os.rename(moved, aside)
                moved = aside
            self._make_room(path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.rename(moved, path)
            self._left_empty.add(os.path.dirname(moved))
        elif "copy" not in facts:
            did = "removed" if status is None else "changed"
            self.unkept[path] = f"a program that it started {did} it, and there is no copy"
            return False
        elif status is not None and is_file and status.st_nlink > 1 and status.st_ino == facts["inode"]:
            # Written in place, so that the file's other names keep the same content.
            self._keep(path, as_copy=True)
            with open(self._copy(facts), "rb") as source, open(path, "r+b") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.truncate()
        else:
            self._make_room(path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            shutil.copy2(self._copy(facts), path)
        set_status(path, facts)
        return True

    def _make_room(self, path: str) -> None:
        """Move away what is at a path, if anything is; remove it if it is surely the script's, and no folder."""
        status = lstat(path)
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode) or not self._is_sure:
            self._keep(path)
        else:
            os.unlink(path)

    def keep(self, path: str) -> bool:
        """Move a file or folder to the folder of kept states; return whether it is gone."""
        with contextlib.suppress(OSError):
            self._keep(path.rstrip("/"))
        return lstat(path) is None

    def _keep(self, path: str, as_copy: bool = False) -> None:
        kept = os.path.join(self.kept_in, path.lstrip(os.sep))
        os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
        status = os.lstat(path)
        if status.st_dev != os.lstat(os.path.dirname(kept)).st_dev:
            check_room(status.st_size, os.path.dirname(kept))
        if as_copy:
            shutil.copy2(path, kept)
        else:
            shutil.move(path, kept)
        self.replaced.add(path)

    def _copy(self, facts: Record) -> str:
        return os.path.join(self._journal, records.COPIES, facts["copy"])

    # ---- leaving alone

    def _leave(self, path: str, facts: Record, status: os.stat_result | None) -> None:
        """Name a change that may be another process's, and keep the earlier state."""
        if facts["kind"] == FOLDER:
            if path not in self._parents:
                self.others.append(UnkeptFile(f"{path}/", f"changed {_BY_ANOTHER}"))
            return
        why = f"changed {_BY_ANOTHER}"
        if "copy" in facts and not (status is not None and self._is_content_same(path, facts, status)):
            kept = os.path.join(self.earlier, path.lstrip(os.sep))
            with contextlib.suppress(OSError):
                os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
                shutil.move(self._copy(facts), kept)
            why = f"{why} (earlier states are kept in {self.earlier})"
        self.others.append(UnkeptFile(path, why))


def _changed_at(path: str) -> float:
    """Return when an entry was changed at last, or if it is gone, the nearest folder that is still there."""
    while (status := lstat(path)) is None and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return status.st_ctime if status is not None else 0.0


def _identity(facts: Record) -> tuple[int, int, int, int]:
    return facts["device"], facts["inode"], facts["size"], facts["mtime_ns"]


def set_status(path: str, facts: Record) -> None:
    """Set mode, owner and times of a file or folder to those of a record."""
    status = os.stat(path)
    if (status.st_uid, status.st_gid) != (facts["uid"], facts["gid"]):
        os.chown(path, facts["uid"], facts["gid"])
    if status.st_mode & 0o7777 != facts["mode"]:
        os.chmod(path, facts["mode"])
    if status.st_mtime_ns != facts["mtime_ns"]:
        os.utime(path, ns=(facts["atime_ns"], facts["mtime_ns"]))
