"""What the kernel shows of control groups, as files below a root."""

from __future__ import annotations

from collections.abc import Callable

from plumb.host.host_files import HostFiles

MakeHost = Callable[..., HostFiles]

V1_MOUNTS = """\
30 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - tmpfs tmpfs rw,mode=755
31 30 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct
32 30 0:30 {root} /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory
33 30 0:31 {root} /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
34 30 0:32 {root} /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
"""
V2_MOUNT = "40 23 0:35 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def v1(path: str, root: str = "/") -> dict[str, str]:
    """The files that say: version 1, this process is in `path`, and the mounts show `root`."""
    return {
        "/proc/self/cgroup": f"5:pids:{path}\n4:memory:{path}\n3:cpuset:{path}\n2:cpu,cpuacct:{path}\n1:name=systemd:/",
        "/proc/self/mountinfo": V1_MOUNTS.format(root=root),
        "/sys/fs/cgroup/cpu,cpuacct/cpu.shares": "1024\n",
        "/sys/fs/cgroup/memory/tasks": "",
    }


def v2(path: str, root: str = "/") -> dict[str, str]:
    """The files that say: version 2, this process is in `path`, and the mount shows `root`."""
    return {
        "/proc/self/cgroup": f"0::{path}\n",
        "/proc/self/mountinfo": V2_MOUNT.format(root=root),
        "/sys/fs/cgroup/cgroup.controllers": "cpu memory pids cpuset\n",
    }


def status(pid: int, parent: int, cpus: str) -> str:
    """/proc/<pid>/status of a process of user 1000 with one thread."""
    return (
        f"Name:\tpython\nPid:\t{pid}\nPPid:\t{parent}\nUid:\t1000\t1000\t1000\t1000\n"
        f"RssAnon:\t0 kB\nThreads:\t1\nCpus_allowed_list:\t{cpus}\n"
    )
