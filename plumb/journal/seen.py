"""Files that processes hold open and programs of the script that run, according to /proc.

This detects libraries and programs that raise no audit event but keep their file open for a while, and when the last
program of the script has ended.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from plumb.journal import records

_LOOK_SECONDS = 1.0
_WRITING = os.O_WRONLY | os.O_RDWR
# Processes of multiprocessing are Python's, which raises audit events; the other ones are helpers that change no files.
_HELPERS = (b"multiprocessing", b"torch_shm_manager")


def open_now() -> set[str]:
    """Return the paths of all files that processes of this user hold open."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for number in os.listdir(folder / "fd"):
                with contextlib.suppress(OSError):
                    found.add(os.readlink(folder / "fd" / number))
    return found


class OpenFiles:
    """Detector of open files of a process and of the programs that it starts, which notes writers in a journal.

    Args:
        journal: The journal's folder.
        listed: Paths of existing files to look for.
        mark: Entry in the environment of all processes of the script; None if other processes than the one that is
            looked at have this journal too, so that its programs are not all.

    """

    def __init__(self, journal: str, listed: Collection[str], mark: str | None = None) -> None:
        self._mark = (
            mark.encode() if mark is not None and Path(f"/proc/self/task/{os.getpid()}/children").exists() else b""
        )
        self._journal = journal
        self._listed = frozenset(listed)
        self._noted: set[str] = set()
        self._look_again = 0.0

    def look(self, pid: int) -> bool:
        """Look for open files unless the last look was within a second; return whether it looked."""
        now = time.monotonic()
        if now < self._look_again:
            return False
        self._look_again = now + _LOOK_SECONDS
        at, programs = time.time(), list(_programs(pid))
        for path in {path for member in programs for path in self._written_by(member)} - self._noted:
            self._noted.add(path)
            self._append({"kind": records.SEEN, "path": path})
        if self._mark and not any(_runs(member) for member in programs if member != pid) and not self._has_orphans(pid):
            self._append({"kind": records.QUIET, "path": "", "at": at})
        return True

    def _has_orphans(self, pid: int) -> bool:
        """Return whether a program of the script runs whose parent has ended."""
        own = _command(pid)
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self._mark in (folder / "environ").read_bytes().split(b"\0"):
                    member = int(folder.name)
                    if _command(member) != own and _runs(member):
                        return True
        return False

    def _append(self, record: records.Record) -> None:
        with contextlib.suppress(OSError):
            name = os.path.join(self._journal, records.RECORDS)
            file = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, records.encode(record))
            finally:
                os.close(file)

    def _written_by(self, pid: int) -> Iterator[str]:
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError, ValueError):
                    path = os.readlink(f"/proc/{pid}/fd/{number}")
                    if path in self._listed and path not in self._noted and _is_writing(pid, number):
                        yield path


def _is_writing(pid: int, number: str) -> bool:
    lines = Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines()
    flags = next(line.split()[1] for line in lines if line.startswith("flags:"))
    return bool(int(flags, 8) & _WRITING)


def _programs(pid: int) -> Iterator[int]:
    """Yield a process and its descendants, except those that are only forked, because they raise audit events."""
    waiting, seen = [pid], {pid}
    own = _command(pid)
    while waiting:
        member = waiting.pop()
        if member == pid or _command(member) != own:
            yield member
        for child in _children(member):
            if child not in seen:
                seen.add(child)
                waiting.append(child)


def _runs(pid: int) -> bool:
    """Return whether a program may change files: it has not ended, and is no helper of Python's or torch's."""
    command = _command(pid)
    return bool(command) and not any(helper in command for helper in _HELPERS)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
