"""Limits that are really there: each test puts a child process under one and asks it what it sees."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plumb.host import Limits

DETECT = """
import json
from plumb.host import Limits, Machine, describe
print(json.dumps(describe(Limits.detect(), Machine.detect())))
"""
GIB = 2**30


def detect_in_child(
    before: str = "", wrapper: tuple[str, ...] = (), environ: dict[str, str] | None = None
) -> dict[str, Any]:
    """What a child sees after it ran the Python in `before`."""
    command = [*wrapper, sys.executable, "-c", before + DETECT]
    done = subprocess.run(command, env=os.environ | (environ or {}), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    described: dict[str, Any] = json.loads(done.stdout)
    return described


@contextmanager
def v1_group(controller: str, files: dict[str, str], inner: str = "") -> Iterator[Path]:
    """A version 1 group of our own with `files`, and where `inner` is given a group inside it: yields the innermost."""
    top = Path("/sys/fs/cgroup", controller, f"plumb-test-{os.getpid()}")
    if not os.access(top.parent / "cgroup.procs", os.W_OK) or not (top.parent / "tasks").exists():
        pytest.skip(f"no writable version 1 {controller} hierarchy")
    innermost = top / inner
    innermost.mkdir(parents=True)
    try:
        for name, text in files.items():
            (top / name).write_text(text)
        yield innermost
    finally:
        for folder in dict.fromkeys((innermost, top)):
            _remove_group(folder)


def _remove_group(folder: Path) -> None:
    # A group stays busy for a moment after its last process has ended.
    for _ in range(100):
        if not (folder / "cgroup.procs").read_text():
            break
        time.sleep(0.05)
    folder.rmdir()


def join(group: Path) -> str:
    return f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"


def test_on_this_machine_every_limit_is_a_number_and_says_where_it_was_read() -> None:
    described = detect_in_child()
    limits, sources = described["limits"], described["sources"]
    assert 0 < limits["cpus"] <= described["logical_cpus"]
    assert limits["memory_bytes"] > 0
    assert all(sources[name] for name in ("cpus", "memory_bytes", "shm_bytes", "gpus"))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_affinity_of_one_cpu() -> None:
    described = detect_in_child("import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n")
    assert described["limits"]["cpus"] <= 1
    assert described["usable_cpus"] == 1


@pytest.mark.skipif(shutil.which("taskset") is None, reason="no taskset here")
def test_taskset() -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    described = detect_in_child(wrapper=("taskset", "-c", cpu))
    assert described["limits"]["cpus"] <= 1


def test_two_ranks() -> None:
    alone = detect_in_child(environ={"LOCAL_WORLD_SIZE": "1"})["limits"]
    one_of_two = detect_in_child(environ={"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"})["limits"]
    assert one_of_two["cpus"] == alone["cpus"] / 2
    assert one_of_two["shm_bytes"] == pytest.approx(alone["shm_bytes"] / 2, rel=0.05)
    assert one_of_two["open_files"] == alone["open_files"]


@pytest.mark.parametrize("inner", ["", "step"])
def test_v1_cpu_quota_of_the_group_or_of_one_above(inner: str) -> None:
    with v1_group("cpu", {"cpu.cfs_quota_us": "50000"}, inner) as group:
        described = detect_in_child(join(group))
    assert described["limits"]["cpus"] == 0.5
    assert described["sources"]["cpus"].startswith("cgroup v1 cpu quota /plumb-test-")
    assert described["sources"]["cpus"].endswith(": 50000/100000")
    assert any("OMP_NUM_THREADS=1" in sentence for sentence in described["advice"])


def test_v1_memory_limit() -> None:
    with v1_group("memory", {"memory.limit_in_bytes": str(GIB)}) as group:
        described = detect_in_child(join(group))
    assert 0.9 * GIB < described["limits"]["memory_bytes"] <= GIB
    assert "memory limit /plumb-test-" in described["sources"]["memory_bytes"]


def test_memory_that_a_child_of_ours_holds_is_still_ours_and_anothers_is_not() -> None:
    hold = (
        "import subprocess, sys\n"
        "holder = subprocess.Popen([sys.executable, '-c', 'x = bytes(range(256)) * 2**20; print(flush=True); input()'],"
        "stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "holder.stdout.readline()\n"
    )
    with v1_group("memory", {"memory.limit_in_bytes": str(GIB)}) as group:
        as_parent = detect_in_child(join(group) + hold)["limits"]["memory_bytes"]
        other = subprocess.Popen(
            [sys.executable, "-c", join(group) + "x = bytes(range(256)) * 2**20; print(flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert other.stdout is not None
            other.stdout.readline()
            beside_another = detect_in_child(join(group))["limits"]["memory_bytes"]
        finally:
            other.communicate()
    assert as_parent > 0.9 * GIB
    assert beside_another < 0.76 * GIB


def test_v1_pids_limit() -> None:
    with v1_group("pids", {"pids.max": "100"}) as group:
        described = detect_in_child(join(group))
    assert 90 < described["limits"]["processes"] < 100
    assert "pids limit /plumb-test-" in described["sources"]["processes"]


def test_ulimit_of_open_files() -> None:
    hard = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    described = detect_in_child(f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, {hard}))\n")
    assert described["limits"]["open_files"] == 128
    assert described["limits"]["open_files_most"] == hard
    assert f"{hard:,}" in described["sources"]["open_files"]
    assert any(f"ulimit -n {hard}" in sentence for sentence in described["advice"])


def test_ulimit_of_processes() -> None:
    described = detect_in_child("import resource; resource.setrlimit(resource.RLIMIT_NPROC, (5000, 5000))\n")
    assert described["limits"]["processes"] < 5000


def test_a_small_shm() -> None:
    mounted = "mount -t tmpfs -o size=16m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mounted], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace for us here")
    described = detect_in_child(wrapper=("unshare", "-m", "sh", "-c", f'{mounted} && exec "$@"', "sh"))
    assert described["limits"]["shm_bytes"] == 16 * 2**20
    assert any("bus error" in sentence for sentence in described["advice"])


def test_a_cache_folder_on_a_tmpfs_and_one_that_is_not_there_yet(tmp_path: Path) -> None:
    assert Limits.detect(tmp_path / "not" / "yet").disk_bytes <= shutil.disk_usage(tmp_path).total
    if Path("/dev/shm").is_dir():
        assert Limits.detect("/dev/shm/cache").disk_kind == "tmpfs"


def test_importing_is_light_and_torchs_strategy_is_asked_only_once_torch_is_there() -> None:
    heavy = "import sys, plumb.host; assert not {'torch', 'optuna', 'psutil', 'pynvml', 'rich'} & set(sys.modules)\n"
    assert detect_in_child(heavy)["limits"]["sharing_strategy"] is None
    assert detect_in_child("import torch\n")["limits"]["sharing_strategy"] in ("file_descriptor", "file_system")
