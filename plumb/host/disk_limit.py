"""Free space and kind of the cache folder's file system."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from plumb.host.host_files import HostFiles
from plumb.host.limit_reading import LimitReading
from plumb.host.local_ranks import Ranks
from plumb.host.mounts import Mount, mounts

_MEMORY = {"tmpfs", "ramfs"}
_NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2"),
    *("orangefs", "pvfs2", "smb3", "smbfs", "virtiofs", "wekafs"),
}


@dataclass(frozen=True)
class Disk:
    """Free bytes, and the kind of device by the kernel: `ssd`, `rotating`, `network`, `tmpfs` or `unknown`."""

    free: LimitReading
    kind: str


def disk(host: HostFiles, folder: Path, ranks: Ranks) -> Disk:
    """Return the disk on which `folder` is or will be made. Raise OSError if that can't be read."""
    place = folder.absolute()
    while not host.path(str(place)).exists() and place != place.parent:
        place = place.parent
    place = Path("/", host.path(str(place)).resolve().relative_to(host.root.resolve()))
    status = os.statvfs(host.path(str(place)))
    mount = _mount_of(place, mounts(host))
    kind = "unknown" if mount is None else _kind(host, mount)
    where = str(place) if mount is None else f"{mount.point} ({mount.kind})"
    share = ranks.share(LimitReading(status.f_bavail * status.f_frsize, f"free on {where}"))
    return Disk(LimitReading(share.value // 1, share.source), kind)


def _mount_of(place: Path, mounted: list[Mount]) -> Mount | None:
    """Return the mount that shows `place`: the deepest, and of several on one point the last, which hides the rest."""
    found = None
    for mount in mounted:
        if place.is_relative_to(mount.point) and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _kind(host: HostFiles, mount: Mount) -> str:
    if mount.kind in _MEMORY:
        return "tmpfs"
    if mount.kind in _NETWORK or mount.kind.startswith("fuse."):
        return "network"
    rotational = {"0": "ssd", "1": "rotating"}
    # btrfs and others have no device number of their own but name a device; a partition uses its disk's queue.
    for device in (f"/sys/dev/block/{mount.device}", f"/sys/class/block/{Path(mount.source).name}"):
        for queue in (f"{device}/queue", f"{device}/../queue"):
            answer = (host.text(f"{queue}/rotational") or "").strip()
            if answer in rotational:
                return rotational[answer]
    return "unknown"
