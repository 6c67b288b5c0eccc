from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from plumb.host import Gpu, Limits, Machine, advice, describe
from plumb.report.doctor import Doctor, print_doctor

GIB = 2**30
MACHINE = Machine(
    cpu_model="A CPU",
    logical_cpus=64,
    usable_cpus=64,
    ranks=1,
    container=None,
    system="Linux 6",
    python="3.12.0",
    packages={"torch": "2.9.0"},
)
ROOMY = Limits(
    cpus=64,
    memory_bytes=256 * GIB,
    shm_bytes=128 * GIB,
    open_files=65536,
    open_files_most=1048576,
    processes=100_000,
    sources={"cpus": "CPU affinity: 64 CPUs", "gpus": "no [driver] here"},
)
GPU = Gpu(
    name="NVIDIA A100",
    uuid=None,
    mig=False,
    memory_bytes=40 * GIB,
    memory_free_bytes=39 * GIB,
    pcie_generation=1,
    pcie_generation_most=4,
    pcie_width=16,
    pcie_width_most=16,
)


def plain(limits: Limits, machine: Machine = MACHINE) -> list[str]:
    console = Console(file=io.StringIO())
    print_doctor(limits, machine, console)
    return console.file.getvalue().splitlines()


def test_plain_text_has_one_line_for_each_limit_however_long() -> None:
    source = "cgroup v2 cpu quota /" + "deep/" * 40
    assert plain(replace(ROOMY, sources={**ROOMY.sources, "cpus": source})) == [
        "A CPU, 64 CPUs; Linux 6; Python 3.12.0; torch 2.9.0",
        f"CPUs: 64 ({source})",
        "memory: 256 GiB",
        "shared memory: 128 GiB",
        "open files: 65,536",
        "processes: 100,000",
        "GPU: none (no [driver] here)",
    ]


def test_on_a_terminal_it_is_a_table() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    console.print(Doctor(ROOMY, MACHINE))
    text = console.file.getvalue()
    assert "where it was read" in text
    assert "no [driver] here" in text


def test_limits_that_nobody_knows_are_said_to_be_unknown() -> None:
    assert "CPUs: no limit known" in plain(Limits())
    assert "memory: no limit known" in plain(Limits())


def test_gpus_disk_workers_and_sharing_get_a_line_where_there_is_something_to_say() -> None:
    limits = replace(
        ROOMY,
        gpus=(GPU,),
        max_workers=3,
        max_connections=24,
        disk_bytes=2 * GIB,
        disk_kind="ssd",
        sharing_strategy="file_descriptor",
    )
    lines = plain(replace(limits, sources={"gpus": "NVML"}))
    assert "GPU: NVIDIA A100, 40 GiB (39 GiB free), PCIe 4 x16 (NVML)" in lines
    assert "workers: 3" in lines
    assert "connections: 24" in lines
    assert "cache folder, ssd: 2 GiB" in lines
    assert any(line.startswith("tensor sharing: file_descriptor") for line in lines)


def test_a_roomy_host_needs_no_advice() -> None:
    assert advice(replace(ROOMY, gpus=(GPU,)), MACHINE) == []


@pytest.mark.parametrize(
    ("small", "container", "words"),
    [
        ({"cpus": 4}, None, "os.cpu_count() says 64"),
        ({"cpus": 1.5}, None, "OMP_NUM_THREADS=1"),
        ({"shm_bytes": 64 * 2**20}, "docker", "docker run --shm-size=8g"),
        ({"shm_bytes": 64 * 2**20, "memory_bytes": 4 * GIB}, "podman", "podman run --shm-size=2g"),
        ({"shm_bytes": 0}, "kubernetes", "medium: Memory"),
        ({"shm_bytes": 0}, None, "remount,size=8G /dev/shm"),
        ({"memory_bytes": GIB}, "docker", "few workers fit."),
        ({"memory_bytes": GIB, "sources": {"memory_bytes": "cgroup v2"}}, "docker", "docker run --memory="),
        ({"memory_bytes": GIB, "sources": {"memory_bytes": "cgroup v1"}}, "kubernetes", "resources.limits.memory"),
        ({"open_files": 128, "open_files_most": 4096}, None, "ulimit -n 4096"),
        ({"open_files": 1024, "open_files_most": 1048576}, None, "ulimit -n 65536"),
        ({"open_files": 128, "open_files_most": 128}, "docker", "--ulimit nofile=65536"),
        ({"open_files": 128, "open_files_most": 128}, None, "set_sharing_strategy('file_system')"),
        ({"sharing_strategy": "file_system"}, None, "file_descriptor"),
        ({"processes": 50}, "docker", "--pids-limit"),
        ({"processes": 50}, None, "pids limit of the control group"),
        ({"processes": 50, "sources": {"processes": "ulimit -u: 60"}}, "docker", "ulimit -u"),
        ({"disk_bytes": 10 * 2**20, "disk_kind": "ssd"}, None, "--cache-dir"),
        ({"disk_kind": "tmpfs"}, None, "takes memory"),
        ({"disk_kind": "network"}, None, "network file system"),
        ({"disk_kind": "rotating"}, None, "rotating"),
        ({"gpus": (replace(GPU, pcie_width=8),)}, None, "8 of 16 PCIe lanes"),
    ],
)
def test_a_small_limit_gets_advice_that_fits_the_host(small: dict, container: str | None, words: str) -> None:
    sentences = advice(replace(ROOMY, **small), replace(MACHINE, container=container))
    assert any(words in sentence for sentence in sentences), sentences


def test_a_limit_that_the_user_asked_for_gets_no_advice() -> None:
    asked = ROOMY.lowered(cpus=1, memory_bytes=GIB, shm_bytes=1, open_files=10, processes=5)
    assert advice(asked, MACHINE) == []


def test_the_plans_host_entry_is_json_with_null_for_what_is_unknown() -> None:
    described = describe(replace(ROOMY, gpus=(GPU,)), MACHINE)
    again = json.loads(json.dumps(described, allow_nan=False))
    assert again["limits"]["disk_bytes"] is None
    assert again["limits"]["cpus"] == 64
    assert again["gpus"][0]["name"] == "NVIDIA A100"
    assert again["sources"]["cpus"] == "CPU affinity: 64 CPUs"
    assert again["packages"] == {"torch": "2.9.0"}
