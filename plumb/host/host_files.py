"""A host's files and environment. Detection reads the outside only through this module."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process: its parent, its real user, and its number of threads."""

    pid: int
    parent: int
    user: int
    threads: int


@dataclass(frozen=True)
class HostFiles:
    """The files below `root` and an environment. Tests pass a folder that imitates another host's root.

    No method raises: missing, unreadable or malformed values are None, or left out.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def path(self, absolute: str) -> Path:
        """Return the real path of this host's file `absolute`."""
        return self.root / absolute.lstrip("/")

    def exists(self, absolute: str) -> bool:
        """Return whether there is such a file or folder that is visible to this process."""
        return os.path.exists(self.path(absolute))

    def is_folder(self, absolute: str) -> bool:
        """Return whether there is such a folder that is visible to this process."""
        return os.path.isdir(self.path(absolute))

    def text(self, absolute: str) -> str | None:
        """Return a file's whole text, or None."""
        try:
            return self.path(absolute).read_text(errors="replace")
        except (OSError, ValueError):  # a path with a null character is a ValueError
            return None

    def number(self, absolute: str) -> int | None:
        """Return the whole number that is a file's content, or None."""
        return whole(self.text(absolute))

    def pairs(self, absolute: str) -> dict[str, str]:
        """Return a file's `key value` or `key: value` lines, as in /proc/meminfo and a cgroup's memory.stat."""
        lines = (line.split(None, 1) for line in (self.text(absolute) or "").splitlines())
        return {words[0].rstrip(":"): words[1].strip() for words in lines if len(words) == 2}

    def parent(self, pid: int | None = None) -> int | None:
        """Return the parent of process `pid`, or of this process; 0 or None if it isn't visible."""
        return whole(self.pairs(f"/proc/{pid or 'self'}/status").get("PPid"))

    def processes(self) -> list[Process]:
        """Return all processes that are visible to this one."""
        try:
            names = [name for name in os.listdir(self.path("/proc")) if name.isdigit()]
        except OSError:
            return []
        seen = (self._process(name) for name in names)
        return [process for process in seen if process is not None]

    def _process(self, name: str) -> Process | None:
        status = self.pairs(f"/proc/{name}/status")
        parent, user, threads = whole(status.get("PPid")), first_whole(status.get("Uid")), whole(status.get("Threads"))
        if parent is None or user is None or threads is None:
            return None
        return Process(int(name), parent, user, threads)


def whole(text: str | None) -> int | None:
    """Return `text` as a whole number, or None if it isn't one."""
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def first_whole(text: str | None) -> int | None:
    """Return the whole number with which `text` starts, as in `1024 kB`, or None."""
    words = (text or "").split()
    return whole(words[0]) if words else None
