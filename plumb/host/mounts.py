"""Mounted file systems, from /proc/self/mountinfo."""

from __future__ import annotations

import re
from dataclasses import dataclass

from plumb.host.host_files import HostFiles


@dataclass(frozen=True)
class Mount:
    """One mounted file system, whose folder `root` is visible at `point`."""

    device: str
    root: str
    point: str
    kind: str
    source: str
    options: frozenset[str]


def mounts(host: HostFiles) -> list[Mount]:
    """Return all mounts visible to this process in the order in which they were made, without malformed lines."""
    lines = (host.text("/proc/self/mountinfo") or "").splitlines()
    parsed = (_parse(line) for line in lines)
    return [mount for mount in parsed if mount is not None]


def _parse(line: str) -> Mount | None:
    # Any number of optional fields precedes the single dash.
    left, dash, right = line.partition(" - ")
    before, after = left.split(), right.split()
    if not dash or len(before) < 6 or len(after) < 3:
        return None
    return Mount(
        device=before[2],
        root=_unescape(before[3]),
        point=_unescape(before[4]),
        kind=after[0],
        source=_unescape(after[1]),
        options=frozenset(after[2].split(",")),
    )


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
