"""A host as its files and its environment show it: the one place where detection touches the outside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process: its parent, its real user, and how many threads it has."""

    pid: int
    parent: int
    user: int
    threads: int


@dataclass(frozen=True)
class Host:
    """The files below `root` and an environment. Tests give a folder that looks like another host's root.

    Nothing here raises: what is missing, unreadable or malformed is None, or absent.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def path(self, absolute: str) -> Path:
        """Where this host's file `absolute` really is."""
        return self.root / absolute.lstrip("/")

    def exists(self, absolute: str) -> bool:
        """Whether there is such a file or folder that this process may see."""
        return os.path.exists(self.path(absolute))

    def is_folder(self, absolute: str) -> bool:
        """Whether there is such a folder that this process may see."""
        return os.path.isdir(self.path(absolute))

    def text(self, absolute: str) -> str | None:
        """A file's whole text."""
        try:
            return self.path(absolute).read_text(errors="replace")
        except (OSError, ValueError):  # a path with a null character is a ValueError
            return None

    def number(self, absolute: str) -> int | None:
        """The number that is a file's whole content."""
        return whole(self.text(absolute))

    def pairs(self, absolute: str) -> dict[str, str]:
        """A file of `key value` or `key: value` lines, such as /proc/meminfo and a cgroup's memory.stat."""
        lines = (line.split(None, 1) for line in (self.text(absolute) or "").splitlines())
        return {words[0].rstrip(":"): words[1].strip() for words in lines if len(words) == 2}

    def parent(self, pid: int | None = None) -> int | None:
        """The parent of process `pid`, or of this one; 0 or None where it can't be seen."""
        return whole(self.pairs(f"/proc/{pid or 'self'}/status").get("PPid"))

    def processes(self) -> list[Process]:
        """Every process that this one may see."""
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
    """The whole number that `text` is, or None."""
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def first_whole(text: str | None) -> int | None:
    """The whole number that `text` starts with, as in `1024 kB`, or None."""
    words = (text or "").split()
    return whole(words[0]) if words else None
