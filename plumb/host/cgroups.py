"""Control groups of this process, version 1, version 2 or both, at every level that is visible."""

from __future__ import annotations

from dataclasses import dataclass

from plumb.host.host_files import HostFiles
from plumb.host.mounts import Mount, mounts


@dataclass(frozen=True)
class Level:
    """One group on the path from the top of a hierarchy to this process."""

    version: int
    name: str
    folder: str


def levels(host: HostFiles, controller: str) -> list[Level]:
    """Return the groups that limit this process through `controller`, outermost first, for both versions.

    A group of version 2 is listed even if the controller is not enabled in it; then the controller's files don't exist.
    """
    paths = _paths(host)
    mounted = mounts(host)
    first = [mount for mount in mounted if mount.kind == "cgroup" and controller in mount.options]
    second = [mount for mount in mounted if mount.kind == "cgroup2"]
    return [
        *_visible(host, 1, first, paths.get(controller)),
        *_visible(host, 2, second, paths.get("")),
    ]


def _paths(host: HostFiles) -> dict[str, str]:
    """Return this process's group in each hierarchy, by controller; version 2 has the empty name."""
    paths: dict[str, str] = {}
    for line in (host.text("/proc/self/cgroup") or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            paths.update(dict.fromkeys(parts[1].split(","), parts[2]))
    return paths


def _visible(host: HostFiles, version: int, candidates: list[Mount], path: str | None) -> list[Level]:
    if path is None or not candidates:
        return []
    mount = max(candidates, key=lambda mount: (_below(path, mount.root) is not None, len(mount.root)))
    # In a container, the path may name folders that only the host sees. The mount's top is then the container's own
    # group or one above it, so its limits apply as well.
    below = _below(path, mount.root) or ()
    found = []
    for depth in range(len(below) + 1):
        inner = "/".join(below[:depth])
        folder = f"{mount.point.rstrip('/')}/{inner}".rstrip("/")
        if host.is_folder(folder):
            found.append(Level(version, f"{mount.root.rstrip('/')}/{inner}".rstrip("/") or "/", folder))
    return found


def _below(path: str, root: str) -> tuple[str, ...] | None:
    """Return the folders from a mount's root down to a group, or None if the group isn't below that root."""
    wanted = [part for part in path.split("/") if part]
    top = [part for part in root.split("/") if part]
    if ".." in wanted or wanted[: len(top)] != top:
        return None
    return tuple(wanted[len(top) :])
