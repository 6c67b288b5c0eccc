"""The host is shared among its ranks, and SLURM may give less than the host has."""

from __future__ import annotations

import pytest
from host_trees import MakeHost, status, v2

from plumb.host.cpu_limit import cpu_limit
from plumb.host.local_ranks import Ranks, ranks_on_host
from plumb.host.memory_limit import memory_limit

GIB = 2**30


@pytest.mark.parametrize(
    ("environ", "ranks"),
    [
        ({}, Ranks(1, "")),
        ({"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, Ranks(4, "LOCAL_WORLD_SIZE")),
        ({"LOCAL_WORLD_SIZE": "1"}, Ranks(1, "")),
        ({"LOCAL_WORLD_SIZE": "four"}, Ranks(1, "")),
        ({"LOCAL_WORLD_SIZE": "-2"}, Ranks(1, "")),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, Ranks(2, "OMPI_COMM_WORLD_LOCAL_SIZE")),
        ({"MPI_LOCALNRANKS": "3"}, Ranks(3, "MPI_LOCALNRANKS")),
        ({"PMI_LOCAL_SIZE": "3"}, Ranks(3, "PMI_LOCAL_SIZE")),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": "1"}, Ranks(4, "SLURM_STEP_TASKS_PER_NODE")),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": "2"}, Ranks(3, "SLURM_STEP_TASKS_PER_NODE")),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": "3"}, Ranks(1, "")),
        ({"SLURM_STEP_TASKS_PER_NODE": "many"}, Ranks(1, "")),
        # A batch script runs once on its node, whatever the job asked for.
        ({"SLURM_NTASKS_PER_NODE": "4", "SLURM_TASKS_PER_NODE": "4", "SLURM_PROCID": "0"}, Ranks(1, "")),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "LOCAL_WORLD_SIZE": "8"}, Ranks(8, "LOCAL_WORLD_SIZE")),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}, Ranks(2, "WORLD_SIZE")),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "node1"}, Ranks(1, "")),
    ],
)
def test_ranks_by_launcher(make_host: MakeHost, environ: dict[str, str], ranks: Ranks) -> None:
    assert ranks_on_host(make_host(environ=environ)) == ranks


@pytest.mark.parametrize(
    ("environ", "cpus"),
    [
        ({"LOCAL_WORLD_SIZE": "4"}, 16),
        ({"SLURM_CPUS_ON_NODE": "32"}, 32),
        ({"SLURM_CPUS_ON_NODE": "32", "LOCAL_WORLD_SIZE": "4"}, 8),
        # One task with 32 CPUs, in which torchrun starts four ranks.
        ({"SLURM_CPUS_PER_TASK": "32", "SLURM_STEP_TASKS_PER_NODE": "1", "LOCAL_WORLD_SIZE": "4"}, 8),
        # Four tasks with 8 CPUs each.
        ({"SLURM_CPUS_PER_TASK": "8", "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_CPUS_ON_NODE": "64"}, 8),
        # What is asked for one task says nothing of a batch script.
        ({"SLURM_CPUS_PER_TASK": "8", "SLURM_CPUS_ON_NODE": "32"}, 32),
        ({"SLURM_CPUS_ON_NODE": "all"}, 64),
        ({"SLURM_CPUS_ON_NODE": "0"}, 64),
    ],
)
def test_cpus_of_one_rank(make_host: MakeHost, environ: dict[str, str], cpus: float) -> None:
    host = make_host(environ=environ)
    assert cpu_limit(host, ranks_on_host(host)).value == cpus


def test_the_source_says_that_and_why_a_limit_is_shared(make_host: MakeHost) -> None:
    host = make_host(environ={"LOCAL_WORLD_SIZE": "4"})
    assert cpu_limit(host, ranks_on_host(host)).source == (
        "CPU affinity: 64 CPUs; shared by 4 ranks (LOCAL_WORLD_SIZE)"
    )


def test_cpus_that_the_launcher_gave_to_this_rank_alone_are_not_shared_again(make_host: MakeHost) -> None:
    rank = {"/proc/self/status": status(100, 50, "16-31"), "/proc/50/status": status(50, 40, "16-31")}
    wrapper = {"/proc/50/environ": "HOME=/\0OMPI_COMM_WORLD_LOCAL_RANK=1\0"}
    launcher = {"/proc/40/status": status(40, 1, "0-63"), "/proc/40/environ": "HOME=/\0"}
    host = make_host(rank | wrapper | launcher, {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"})
    assert cpu_limit(host, ranks_on_host(host)).value == 16


def test_a_quota_is_shared_even_where_cpus_are_not(make_host: MakeHost) -> None:
    files = v2("/job") | {
        "/proc/self/status": status(100, 40, "16-31"),
        "/proc/40/status": status(40, 1, "0-63"),
        "/sys/fs/cgroup/job/cpu.max": "3200000 100000",
    }
    host = make_host(files, {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"})
    assert cpu_limit(host, ranks_on_host(host)).value == 8


def test_cpus_chosen_above_the_launcher_are_shared(make_host: MakeHost) -> None:
    files = {
        "/proc/self/status": status(100, 40, "0-7"),
        "/proc/40/status": status(40, 30, "0-7"),  # taskset -c 0-7 torchrun ...
        "/proc/30/status": status(30, 1, "0-63"),
    }
    host = make_host(files, {"LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "0"})
    assert cpu_limit(host, ranks_on_host(host)).value == 2


def test_ranks_share_what_is_available_and_keep_what_they_have(make_host: MakeHost) -> None:
    files = {
        "/proc/100/status": status(100, 1, "0-63"),
        "/proc/100/smaps_rollup": f"Pss_Anon: {10 * 2**20} kB\nPss_Shmem: 0 kB\n",
    }
    assert memory_limit(make_host(files), Ranks(4, "LOCAL_WORLD_SIZE")).value == 60 * GIB


@pytest.mark.parametrize(
    ("environ", "gib"),
    [
        ({"SLURM_MEM_PER_NODE": "65536"}, 64),
        ({"SLURM_MEM_PER_NODE": "0"}, 200),
        ({"SLURM_MEM_PER_CPU": "2048", "SLURM_CPUS_ON_NODE": "16"}, 32),
        ({"SLURM_MEM_PER_CPU": "2048"}, 200),
    ],
)
def test_memory_that_slurm_gives(make_host: MakeHost, environ: dict[str, str], gib: int) -> None:
    assert memory_limit(make_host(environ=environ), Ranks(1, "")).value == gib * GIB


def test_slurms_memory_is_shared_by_ranks_that_are_alike(make_host: MakeHost) -> None:
    files = {
        "/proc/100/status": status(100, 1, "0-63"),
        "/proc/100/smaps_rollup": f"Pss_Anon: {10 * 2**20} kB\nPss_Shmem: 0 kB\n",
    }
    host = make_host(files, {"SLURM_MEM_PER_NODE": "65536"})
    assert memory_limit(host, Ranks(4, "LOCAL_WORLD_SIZE")).value == 16 * GIB
