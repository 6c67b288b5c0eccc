"""Hosts made of files: a test writes what the kernel would show, and detection reads it as if it were a root."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from host_trees import MakeHost, status

from plumb.host.host_files import HostFiles


@pytest.fixture
def make_host(tmp_path: Path) -> MakeHost:
    """A host of 64 CPUs and 256 GiB, 200 of them available, with the files and environment that the test gives."""

    def make(files: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None) -> HostFiles:
        common = {
            "/proc/self/status": status(pid=100, parent=1, cpus="0-63"),
            "/proc/meminfo": f"MemTotal: {256 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {200 * 2**20} kB\n",
            "/sys/devices/system/cpu/online": "0-63\n",
        }
        for name, text in {**common, **(files or {})}.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return HostFiles(tmp_path, environ or {})

    return make
