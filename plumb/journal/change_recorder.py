"""Recorder of a journal: keeps what exists at a path before a process of the script changes it.

All processes of a script write one journal. A lock makes a copy and its record one step, so that the first state of
each path is the one that is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec

from plumb.journal import records
from plumb.journal.copying import TooLargeError, copy_aside
from plumb.journal.journal_paths import can_be_renamed, entry_at, highest_writable, is_within, lstat
from plumb.journal.known_paths import KnownPaths
from plumb.journal.records import (
    ABSENT,
    BESIDE,
    FOLDER,
    GROWN,
    KEPT,
    MOVED,
    PROGRAM,
    SCRATCH,
    STATUS,
    SYMLINK,
    UNKEPT,
    Record,
)

_P = ParamSpec("_P")
# Not files of the user: devices, the kernel's own, and shared memory of torch and Python.
_KERNELS = ("/dev/", "/proc/", "/sys/")
_SHARED_MEMORY = "/dev/shm/"
_OF_LIBRARIES = ("torch_", "psm_", "sem.", "pymp-", "plumb-")
# Byte code, and a folder that importing torch's compiler makes.
_CACHES = ("/__pycache__", "/torchinductor_")
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Functions of the C library that change files or start programs.
_C_FUNCTIONS = frozenset((
    "chmod", "chown", "creat", "creat64", "execl", "execle", "execlp", "execv", "execve", "execvp", "fchmod",
    "fchmodat", "fdopen", "fopen", "fopen64", "fork", "freopen", "ftruncate", "ftruncate64", "futimens", "lchown",
    "link", "linkat", "mkdir", "mkdirat", "mkstemp", "open", "open64", "openat", "openat64", "popen", "posix_spawn",
    "posix_spawnp", "remove", "rename", "renameat", "renameat2", "rmdir", "symlink", "symlinkat", "syscall", "system",
    "truncate", "truncate64", "unlink", "unlinkat", "utime", "utimensat", "utimes", "vfork",
))  # fmt: skip
# Files above this size are moved instead of copied, or only their length is kept, if that suffices.
LARGE_BYTES = 64 * 2**20


def _not_raising(
    method: Callable[Concatenate[ChangeRecorder, _P], None],
) -> Callable[Concatenate[ChangeRecorder, _P], None]:
    """Suppress OSErrors of the journal, which must not reach the script; missed changes are found by the comparison."""

    @functools.wraps(method)
    def guarded(self: ChangeRecorder, /, *arguments: _P.args, **keywords: _P.kwargs) -> None:
        with contextlib.suppress(OSError):
            method(self, *arguments, **keywords)

    return guarded


class ChangeRecorder:
    """Writer of the journal in `folder`, which keeps what the script's processes are about to change.

    Methods take paths as the script gives them, and never raise: a change that can't be recorded is made all the same.
    Paths in `ignored`, and below them, are plumb's own.
    """

    def __init__(self, folder: str, ignored: Sequence[str] = ()) -> None:
        self.folder = folder
        self._ignored = tuple(prefix.rstrip("/") for prefix in (*ignored, folder))
        self._lock_file: int | None = None
        self._reset()
        self._read_to = 0
        self._known = KnownPaths()
        self._calls_c = False
        self._count = 0
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # A forked process must not share the lock's open file with its parent, because it would hold the parent's lock.
        self._threads = threading.RLock()
        if self._lock_file is not None:
            os.close(self._lock_file)
        self._lock_file = None

    # ---- changes about to be made

    @_not_raising
    def writing(self, path: str, *, appends: bool = False, replaces: bool = False) -> None:
        """Keep a file that is about to be written in place, or note that the path is free.

        Args:
            path: The file; symbolic links are followed, as a write does.
            appends: The file can only grow.
            replaces: The file is emptied first, or created if it is missing.

        """
        real = os.path.realpath(path)
        if self._known.by_link:
            self._part_from_links(real)
        if self._known.is_safe(real, appends) or self._is_ignored(real):
            return
        with self._locked():
            if self._known.is_safe(real, appends):
                return
            status = lstat(real)
            if status is None:
                self._note_absent(real)
            elif stat.S_ISREG(status.st_mode):
                if appends and status.st_size > LARGE_BYTES:
                    self._add(GROWN, real, **records.status_of(status))
                else:
                    self._keep(real, status, may_move=replaces and status.st_size > LARGE_BYTES)

    @_not_raising
    def removing(self, path: str) -> None:
        """Keep a file or a symbolic link whose name is about to be removed, or to be given to another file."""
        entry = entry_at(path)
        if self._known.safe.get(entry) or self._is_ignored(entry):
            return
        with self._locked():
            if not self._known.safe.get(entry):
                self._keep_entry(entry)

    @_not_raising
    def moving(self, source: str, target: str) -> None:
        """Note that a file or a folder is about to be renamed, and keep what is at its target."""
        source, target = entry_at(source), entry_at(target)
        if self._is_ignored(source) and self._is_ignored(target):
            return
        with self._locked():
            status, there = lstat(source), lstat(target)
            if status is None or not can_be_renamed(source, status, target):
                return
            if there is not None and os.path.samestat(status, there):
                # To rename a file to another name of its own does nothing.
                return
            self._keep_entry(target)
            is_folder = stat.S_ISDIR(status.st_mode)
            if self._known.is_new(source) or (not is_folder and self._known.safe.get(source)):
                return
            self._add(MOVED, source, to=target, is_folder=is_folder, **records.status_of(status))

    @_not_raising
    def removing_folder(self, path: str) -> None:
        """Note that an empty folder is about to be removed."""
        entry = entry_at(path)
        if self._is_ignored(entry):
            return
        with self._locked():
            if not self._known.safe.get(entry):
                self._keep_entry(entry)

    @_not_raising
    def making_folder(self, path: str) -> None:
        """Note that a folder is about to be made."""
        entry = entry_at(path)
        if entry in self._known.safe or self._is_ignored(entry):
            return
        with self._locked():
            if lstat(entry) is None:
                self._note_absent(entry)

    @_not_raising
    def linking(self, source: str, target: str) -> None:
        """Keep a file that is about to get a second name, because writing to either name changes the same file."""
        entry = entry_at(target)
        if self._is_ignored(entry):
            return
        with self._locked():
            self._keep_entry(entry)
            if not self._known.is_new(entry_at(source)):
                self.writing(source)

    @_not_raising
    def changing_status(self, path: str) -> None:
        """Note mode, owner and times of a file or folder before they are set."""
        real = os.path.realpath(path)
        if real in self._known.safe_status or self._known.safe.get(real) or self._is_ignored(real):
            return
        with self._locked():
            status = lstat(real)
            if status is None or stat.S_ISLNK(status.st_mode):
                # Links in a cycle: the script's own operation will fail.
                return
            if real not in self._known.safe_status and not self._known.safe.get(real):
                self._add(STATUS, real, **records.status_of(status))

    @_not_raising
    def opening_database(self, path: str, companions: Sequence[str]) -> None:
        """Keep a database that a library writes by itself, with the files that the library makes beside it."""
        self.writing(path)
        for companion in companions:
            real = os.path.realpath(companion)
            if self._known.safe.get(real) or self._is_ignored(real):
                continue
            with self._locked():
                if lstat(real) is None:
                    self._note_absent(real, companion=os.path.realpath(path))
                else:
                    self.writing(real)

    @_not_raising
    def note_scratch(self, path: str, goes: bool = True) -> None:
        """Note a temporary file or folder that the script's exit would remove (`goes`), or would leave after all."""
        entry = entry_at(path)
        if not self._is_ignored(entry):
            with self._locked():
                self._add(SCRATCH, entry, goes=goes)

    @_not_raising
    def note_program(self, words: Sequence[Any], stays: bool = False) -> None:
        """Note a program that the script starts, because it may write files without audit events.

        Args:
            words: The program's command line.
            stays: Its end can't be seen, because it takes the place of a process of the script.

        """
        texts = [_text(word) for word in words]
        if any(_is_plumbs(*pair) for pair in itertools.pairwise(texts)):
            return
        with self._locked():
            self._add(PROGRAM, os.getcwd(), words=texts, at=time.time(), stays=stays)

    @_not_raising
    def note_c_function(self, name: Any) -> None:
        """Note that the script can call a function of the C library that changes files without an audit event."""
        if name in _C_FUNCTIONS and not self._calls_c:
            self._calls_c = True
            self.note_program([], stays=True)

    # ---- keeping

    def _keep_entry(self, entry: str) -> None:
        status = lstat(entry)
        if status is None:
            self._note_absent(entry)
        elif stat.S_ISLNK(status.st_mode):
            self._add(SYMLINK, entry, target=os.readlink(entry), **records.status_of(status))
        elif stat.S_ISDIR(status.st_mode):
            self._add(FOLDER, entry, **records.status_of(status))
        elif stat.S_ISREG(status.st_mode) and not self._known.safe.get(entry):
            self._keep(entry, status, may_link=True)

    def _keep(self, path: str, status: os.stat_result, may_link: bool = False, may_move: bool = False) -> None:
        """Bring a file's content into the journal, in the cheapest way that later writes don't affect.

        A second name suffices if the first one is about to be removed. A large file that is about to be emptied is
        moved away, so that a new one is made in its place.
        """
        copies, facts = os.path.join(self.folder, records.COPIES), records.status_of(status)
        beside = self._folder_beside(path, status) if status.st_nlink == 1 and (may_link or may_move) else None
        name = self._free_name(copies, beside or copies)
        if beside is not None:
            copy = os.path.join(beside, name)
            kept = name if beside == copies else copy
            if may_link:
                with contextlib.suppress(OSError):
                    os.link(path, copy, follow_symlinks=False)
                    self._add(KEPT, path, copy=kept, how="link", **facts)
                    return
            if may_move and os.access(path, os.W_OK) and os.access(os.path.dirname(path), os.W_OK):
                # Recorded first, so that a process killed in between has changed nothing yet.
                self._add(KEPT, path, copy=kept, how="move", **facts)
                os.rename(path, copy)
                return
        try:
            copy_aside(path, os.path.join(copies, name))
        except OSError as error:
            self._add(UNKEPT, path, why=_why(error), **facts)
        else:
            self._add(KEPT, path, copy=name, how="copy", **facts)

    def _free_name(self, *folders: str) -> str:
        """Return a name that no copy has: the number of a process that has ended may be given to another one."""
        while True:
            self._count += 1
            name = f"{os.getpid()}-{self._count}"
            if not any(os.path.lexists(os.path.join(folder, name)) for folder in folders):
                return name

    def _part_from_links(self, path: str) -> None:
        """Copy a file that is kept by a second name and is about to be written.

        This happens if the script failed to remove or replace the file, for which the second name was made.
        """
        status = lstat(path)
        if status is None or (status.st_dev, status.st_ino) not in self._known.by_link:
            return
        with self._locked():
            copy = self._known.by_link.pop((status.st_dev, status.st_ino), None)
            if copy is None:
                return
            kept = os.path.join(self.folder, records.COPIES, copy)
            try:
                copy_aside(path, f"{kept}-own")
                os.replace(f"{kept}-own", kept)
            except OSError as error:
                self._add(UNKEPT, path, why=_why(error), **records.status_of(status))

    def _folder_beside(self, path: str, status: os.stat_result) -> str | None:
        """Return a folder of the journal on the file system of a file; None if there is none, or if the file is small.

        On other file systems than the journal's, large files get a hidden folder in the highest writable folder,
        because the script lists and removes its run folders, which are further down.
        """
        copies = os.path.join(self.folder, records.COPIES)
        if os.stat(copies).st_dev == status.st_dev:
            return copies
        if status.st_size <= LARGE_BYTES:
            return None
        if status.st_dev not in self._known.beside:
            top = highest_writable(os.path.dirname(path), status.st_dev)
            if top is not None:
                folder = os.path.join(top, f".plumb-{os.path.basename(self.folder)}")
                self._add(BESIDE, folder, device=status.st_dev)
                os.makedirs(folder, mode=0o700, exist_ok=True)
        return self._known.beside.get(status.st_dev)

    def _note_absent(self, path: str, **more: Any) -> None:
        if path not in self._known.safe:
            self._add(ABSENT, path, **more)

    def _is_ignored(self, path: str) -> bool:
        if path.startswith(_SHARED_MEMORY) and not path[len(_SHARED_MEMORY) :].startswith(_OF_LIBRARIES):
            return any(is_within(path, prefix) for prefix in self._ignored)
        return (
            path.startswith(_KERNELS)
            or any(part in path for part in _CACHES)
            or any(is_within(path, prefix) for prefix in self._ignored)
        )

    # ---- records

    def _add(self, kind: str, path: str, **facts: Any) -> None:
        record: Record = {"kind": kind, "path": path, **facts}
        line = records.encode(record)
        name = os.path.join(self.folder, records.RECORDS)
        file = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)
        self._read_to += len(line)
        self._known.heed(record)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the journal's lock, with the records of other processes read. Raise OSError if that fails."""
        with self._threads:
            if self._lock_file is not None:
                yield
                return
            name = os.path.join(self.folder, records.LOCK)
            self._lock_file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX)
                self._read_others()
                yield
            finally:
                # A process forked meanwhile has the open file too, so closing it alone would leave it locked.
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)
                os.close(self._lock_file)
                self._lock_file = None

    def _read_others(self) -> None:
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self.folder, records.RECORDS), "rb") as file:
            file.seek(self._read_to)
            lines = file.read()
            for record in records.decode(lines):
                self._known.heed(record)
            self._read_to += len(lines)


def _why(error: OSError) -> str:
    return str(error) if isinstance(error, TooLargeError) else (error.strerror or str(error)).lower()


def _is_plumbs(word: str, following: str) -> bool:
    """Return whether two words of a command line run a program of plumb's, which changes no files of the user's."""
    if word == "-m":
        return following.startswith("plumb.")
    return word.startswith("-") and following.startswith(f"{_PACKAGE}/") and following.endswith(".py")


def _text(word: Any) -> str:
    try:
        return os.fsdecode(word)
    except TypeError:
        return str(word)
