from __future__ import annotations

from pathlib import Path

import pytest
from host_trees import MakeHost

from plumb.host.disk_limit import disk
from plumb.host.host_files import HostFiles
from plumb.host.local_ranks import Ranks

ALONE = Ranks(1, "")
MOUNTS = """\
27 1 254:1 / / rw - ext4 /dev/vda1 rw
28 27 8:17 / /data rw - ext4 /dev/sdb1 rw
29 27 0:50 / /home rw - nfs4 server:/home rw
30 27 0:51 / /scratch rw - lustre 10.0.0.1@tcp:/fs rw
31 27 0:52 / /ram rw - tmpfs tmpfs rw
32 27 0:53 / /pool rw - btrfs /dev/sdb rw
33 27 0:54 / /bucket rw - fuse.gcsfuse bucket rw
34 27 0:55 / /layers rw - overlay overlay rw,upperdir=/elsewhere
35 28 0:56 / /data/over rw - tmpfs tmpfs rw
36 28 8:17 / /data/over rw - ext4 /dev/sdb1 rw
"""


def devices(make_host: MakeHost, *folders: str) -> HostFiles:
    """A host with a solid-state disk of one partition (254:1) and a rotating one of one partition (8:17)."""
    host = make_host(
        {
            "/proc/self/mountinfo": MOUNTS,
            "/sys/devices/vda/queue/rotational": "0\n",
            "/sys/devices/vda/vda1/partition": "1\n",
            "/sys/devices/sdb/queue/rotational": "1\n",
            "/sys/devices/sdb/sdb1/partition": "1\n",
        }
    )
    for link, target in {"dev/block/254:1": "vda/vda1", "dev/block/8:17": "sdb/sdb1", "class/block/sdb": "sdb"}.items():
        place = host.path(f"/sys/{link}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(Path("../../devices", target))
    for folder in folders:
        host.path(folder).mkdir(parents=True)
    return host


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/cache", "ssd"),
        ("/data/images", "rotating"),
        ("/database", "ssd"),
        ("/home/me", "network"),
        ("/scratch/me", "network"),
        ("/bucket/x", "network"),
        ("/ram/cache", "tmpfs"),
        ("/pool/cache", "rotating"),
        ("/layers/cache", "unknown"),
        ("/data/over", "rotating"),
    ],
)
def test_kind_of_the_disk_below_a_folder(make_host: MakeHost, folder: str, kind: str) -> None:
    found = disk(devices(make_host, folder), Path(folder), ALONE)
    assert found.kind == kind
    assert found.free.value > 0


def test_a_folder_that_is_still_to_be_made_is_judged_by_where_it_will_be(make_host: MakeHost) -> None:
    found = disk(devices(make_host, "/ram"), Path("/ram/not/yet"), ALONE)
    assert (found.kind, found.free.source) == ("tmpfs", "free on /ram (tmpfs)")


def test_without_mounts_the_kind_is_unknown_and_the_space_still_read(make_host: MakeHost) -> None:
    found = disk(make_host(), Path("/var/cache"), ALONE)
    assert found.kind == "unknown"
    assert found.free.value > 0


def test_ranks_share_the_space(make_host: MakeHost) -> None:
    host = make_host()
    shared = disk(host, Path("/"), Ranks(1000, "LOCAL_WORLD_SIZE")).free.value
    assert 0 < shared < disk(host, Path("/"), ALONE).free.value / 500
