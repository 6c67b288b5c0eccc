"""CPU, memory and process limits from control groups of every shape, on hosts made of files."""

from __future__ import annotations

import math

import pytest
from host_trees import V1_MOUNTS, V2_MOUNT, MakeHost, v1, v2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plumb.host.cgroups import levels
from plumb.host.cpu_limit import cpu_limit
from plumb.host.limit_reading import LimitReading
from plumb.host.local_ranks import Ranks
from plumb.host.memory_limit import memory_limit
from plumb.host.process_limits import process_limit

ALONE = Ranks(1, "")
GIB = 2**30
CPU1 = "/sys/fs/cgroup/cpu,cpuacct"
MEMORY1 = "/sys/fs/cgroup/memory"
UNLIMITED1 = "9223372036854771712\n"


def cpus(make_host: MakeHost, files: dict[str, str]) -> LimitReading:
    return cpu_limit(make_host(files), ALONE)


def test_without_any_group_the_affinity_counts(make_host: MakeHost) -> None:
    assert cpus(make_host, {}) == LimitReading(64, "CPU affinity: 64 CPUs")


def test_cpus_that_are_allowed_but_absent_do_not_count(make_host: MakeHost) -> None:
    assert cpus(make_host, {"/sys/devices/system/cpu/online": "0-7\n"}).value == 8


def test_v1_quota(make_host: MakeHost) -> None:
    group = {f"{CPU1}/job/abc/cpu.cfs_quota_us": "150000\n", f"{CPU1}/job/abc/cpu.cfs_period_us": "100000\n"}
    assert cpus(make_host, v1("/job/abc") | group) == LimitReading(1.5, "cgroup v1 cpu quota /job/abc: 150000/100000")


def test_v2_quota(make_host: MakeHost) -> None:
    group = {"/sys/fs/cgroup/job/cpu.max": "250000 100000\n"}
    assert cpus(make_host, v2("/job") | group) == LimitReading(2.5, "cgroup v2 cpu quota /job: 250000/100000")


@pytest.mark.parametrize("tightest", ["/a", "/a/b", "/a/b/c"])
def test_the_tightest_of_all_levels_binds(make_host: MakeHost, tightest: str) -> None:
    quotas = {f"/sys/fs/cgroup{level}/cpu.max": "800000 100000" for level in ("/a", "/a/b", "/a/b/c")}
    quotas[f"/sys/fs/cgroup{tightest}/cpu.max"] = "300000 100000"
    assert cpus(make_host, v2("/a/b/c") | quotas) == LimitReading(3, f"cgroup v2 cpu quota {tightest}: 300000/100000")


@pytest.mark.parametrize(
    "text", ["max 100000", "max", "", "nonsense", "0 0", "100000 0", "-1 100000", "1 2 3", "200000"]
)
def test_no_quota_and_malformed_quotas_are_no_limit(make_host: MakeHost, text: str) -> None:
    assert cpus(make_host, v2("/job") | {"/sys/fs/cgroup/job/cpu.max": text}).value == 64


@pytest.mark.parametrize(("quota", "period"), [("-1", "100000"), ("50000", "0"), ("x", "100000"), ("50000", "")])
def test_v1_no_quota_and_malformed_quotas_are_no_limit(make_host: MakeHost, quota: str, period: str) -> None:
    group = {f"{CPU1}/job/cpu.cfs_quota_us": quota, f"{CPU1}/job/cpu.cfs_period_us": period}
    assert cpus(make_host, v1("/job") | group).value == 64


def test_a_half_filled_group_is_no_limit(make_host: MakeHost) -> None:
    assert cpus(make_host, v1("/job") | {f"{CPU1}/job/cpu.cfs_quota_us": "50000"}).value == 64


def test_hybrid_reads_both_versions(make_host: MakeHost) -> None:
    mixed = {
        "/proc/self/cgroup": "2:cpu,cpuacct:/old\n0::/new\n",
        "/proc/self/mountinfo": V1_MOUNTS.format(root="/")
        + "41 30 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        f"{CPU1}/old/cpu.cfs_quota_us": "600000",
        f"{CPU1}/old/cpu.cfs_period_us": "100000",
        "/sys/fs/cgroup/unified/new/cgroup.procs": "",
    }
    assert cpus(make_host, mixed).value == 6
    with_v2_quota = mixed | {"/sys/fs/cgroup/unified/new/cpu.max": "500000 100000"}
    assert cpus(make_host, with_v2_quota).source == "cgroup v2 cpu quota /new: 500000/100000"


def test_docker_v1_whose_path_only_the_host_sees(make_host: MakeHost) -> None:
    files = v1("/docker/1f2e", root="/docker/1f2e") | {
        f"{CPU1}/cpu.cfs_quota_us": "400000",
        f"{CPU1}/cpu.cfs_period_us": "100000",
    }
    assert cpus(make_host, files) == LimitReading(4, "cgroup v1 cpu quota /docker/1f2e: 400000/100000")


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/", "/"),  # a cgroup namespace
        ("/", "/../.."),  # mounted from outside of the namespace
        ("/../../kubepods.slice/pod1/other", "/"),  # moved out of the namespace
        ("/kubepods/burstable/pod1/abc", "/"),  # a bind mount that hides where it is from
        ("/kubepods/burstable/pod1/abc", "/kubepods/burstable/pod1/abc"),
        ("/kubepods/burstable/pod1/abc", "/system.slice/containerd.service/kubepods-pod1:abc"),
    ],
)
def test_kubernetes_paths_that_the_container_does_not_see(make_host: MakeHost, path: str, root: str) -> None:
    files = v2(path, root) | {"/sys/fs/cgroup/cpu.max": "200000 100000", "/sys/fs/cgroup/memory.max": f"{4 * GIB}"}
    assert cpus(make_host, files).value == 2
    assert memory_limit(make_host(files), ALONE).value == 4 * GIB


def test_a_mount_that_shows_the_group_is_preferred_to_one_that_does_not(make_host: MakeHost) -> None:
    files = v2("/pod/abc", "/elsewhere") | {
        "/sys/fs/cgroup/cpu.max": "100000 100000",
        "/mnt/with space/pod/abc/cpu.max": "700000 100000",
    }
    files["/proc/self/mountinfo"] += "41 30 0:40 / /mnt/with\\040space rw - cgroup2 cgroup2 rw\n"
    assert cpus(make_host, files).value == 7


def test_a_cpuset_smaller_than_the_affinity(make_host: MakeHost) -> None:
    files = v1("/job") | {"/sys/fs/cgroup/cpuset/job/cpuset.cpus": "0-3,8\n"}
    assert cpus(make_host, files) == LimitReading(5, "cgroup v1 cpuset /job: CPUs 0-3,8")
    files = v2("/job") | {"/sys/fs/cgroup/job/cpuset.cpus.effective": "2-3\n", "/sys/fs/cgroup/job/cpuset.cpus": "\n"}
    assert cpus(make_host, files).value == 2


def test_levels_are_listed_from_the_outermost(make_host: MakeHost) -> None:
    host = make_host(v2("/a/b") | {"/sys/fs/cgroup/a/b/cgroup.procs": ""})
    assert [level.name for level in levels(host, "cpu")] == ["/", "/a", "/a/b"]


@pytest.mark.parametrize("text", ["", "\n", "0:", "garbage\n::\n", "0::\n", "9:cpu\n", "\0\n"])
def test_a_malformed_list_of_groups_leaves_the_affinity(make_host: MakeHost, text: str) -> None:
    assert cpus(make_host, v2("/") | {"/proc/self/cgroup": text}).value == 64


@pytest.mark.parametrize(
    "text", ["", "1 2 3\n", "a b c d e f - \n", " - \n", "40 23 0:35 / /sys/fs/cgroup - cgroup2\n"]
)
def test_malformed_mounts_leave_the_affinity(make_host: MakeHost, text: str) -> None:
    files = v2("/job") | {"/sys/fs/cgroup/job/cpu.max": "100000 100000", "/proc/self/mountinfo": text}
    assert cpus(make_host, files).value == 64


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_no_content_of_any_file_raises(make_host: MakeHost, group: str, quota: str, memory: str) -> None:
    host = make_host(
        v2("/job")
        | {
            "/proc/self/cgroup": f"0::/job\n{group}",
            "/proc/self/mountinfo": V2_MOUNT.format(root="/") + group,
            "/sys/fs/cgroup/job/cpu.max": quota,
            "/sys/fs/cgroup/job/memory.max": memory,
            "/sys/fs/cgroup/job/memory.stat": memory,
        }
    )
    assert 0 < cpu_limit(host, ALONE).value <= 64
    assert memory_limit(host, ALONE).value >= 0


def test_the_hosts_memory_less_what_others_use(make_host: MakeHost) -> None:
    limit = memory_limit(make_host(), ALONE)
    assert limit == LimitReading(200 * GIB, "the host's memory: 256 GiB; 56 GiB in use by others")


def test_v2_memory_counts_page_cache_as_free(make_host: MakeHost) -> None:
    group = {
        "/sys/fs/cgroup/job/memory.max": f"{8 * GIB}\n",
        "/sys/fs/cgroup/job/memory.current": f"{7 * GIB}\n",
        "/sys/fs/cgroup/job/memory.stat": f"anon {GIB}\nactive_file {2 * GIB}\ninactive_file {3 * GIB}\nbad\n",
    }
    limit = memory_limit(make_host(v2("/job") | group), ALONE)
    assert limit == LimitReading(6 * GIB, "cgroup v2 memory.max /job: 8 GiB; 2 GiB in use by others")


def test_what_this_process_and_its_children_use_is_theirs_to_use(make_host: MakeHost) -> None:
    rollup = f"Rss: {9 * 2**20} kB\nPss_Anon: {2**20} kB\nPss_File: {2**20} kB\nPss_Shmem: {2**19} kB\n"
    group = {
        "/sys/fs/cgroup/job/memory.max": f"{8 * GIB}",
        "/sys/fs/cgroup/job/memory.current": f"{6 * GIB}",
        "/proc/self/status": "Pid: 100\nPPid: 1\n",
        "/proc/100/status": "Pid: 100\nPPid: 1\nUid: 0 0 0 0\nThreads: 1\n",
        "/proc/100/smaps_rollup": rollup,
        "/proc/200/status": "Pid: 200\nPPid: 100\nUid: 0 0 0 0\nThreads: 1\n",
        "/proc/200/smaps_rollup": rollup,
        "/proc/300/status": f"Pid: 300\nPPid: 200\nUid: 0 0 0 0\nThreads: 1\nRssAnon: {2**19} kB\nRssShmem: 0 kB\n",
        "/proc/400/status": "Pid: 400\nPPid: 1\nUid: 0 0 0 0\nThreads: 1\n",
        "/proc/400/smaps_rollup": rollup,
    }
    limit = memory_limit(make_host(v2("/job") | group), ALONE)
    assert limit == LimitReading(5.5 * GIB, "cgroup v2 memory.max /job: 8 GiB; 2.5 GiB in use by others")


def test_memory_high_binds_below_max(make_host: MakeHost) -> None:
    group = {"/sys/fs/cgroup/job/memory.max": f"{8 * GIB}", "/sys/fs/cgroup/job/memory.high": f"{6 * GIB}"}
    limit = memory_limit(make_host(v2("/job") | group), ALONE)
    assert limit == LimitReading(6 * GIB, "cgroup v2 memory.high /job: 6 GiB")


def test_a_full_group_above_leaves_less_than_the_groups_own_limit(make_host: MakeHost) -> None:
    group = {
        "/sys/fs/cgroup/pod/memory.max": f"{10 * GIB}",
        "/sys/fs/cgroup/pod/memory.current": f"{9 * GIB}",
        "/sys/fs/cgroup/pod/job/memory.max": f"{4 * GIB}",
        "/sys/fs/cgroup/pod/job/memory.current": "0",
    }
    limit = memory_limit(make_host(v2("/pod/job") | group), ALONE)
    assert limit == LimitReading(GIB, "cgroup v2 memory.max /pod: 10 GiB; 9 GiB in use by others")


def test_v1_memory(make_host: MakeHost) -> None:
    group = {
        f"{MEMORY1}/memory.limit_in_bytes": UNLIMITED1,
        f"{MEMORY1}/job/memory.limit_in_bytes": f"{4 * GIB}\n",
        f"{MEMORY1}/job/memory.usage_in_bytes": f"{2 * GIB}\n",
        f"{MEMORY1}/job/memory.stat": f"cache 5\ntotal_active_file {GIB // 2}\ntotal_inactive_file {GIB // 2}\n",
    }
    limit = memory_limit(make_host(v1("/job") | group), ALONE)
    assert limit == LimitReading(3 * GIB, "cgroup v1 memory limit /job: 4 GiB; 1 GiB in use by others")


def test_v1_knows_a_limit_above_what_the_container_sees(make_host: MakeHost) -> None:
    group = {
        f"{MEMORY1}/memory.limit_in_bytes": UNLIMITED1,
        f"{MEMORY1}/memory.usage_in_bytes": "0",
        f"{MEMORY1}/memory.stat": f"hierarchical_memory_limit {2 * GIB}\n",
    }
    limit = memory_limit(make_host(v1("/pod/c", root="/pod/c") | group), ALONE)
    assert limit == LimitReading(2 * GIB, "cgroup v1 hierarchical memory limit /pod/c: 2 GiB; 0 B in use by others")


@pytest.mark.parametrize("text", ["max", "", "lots", UNLIMITED1, "-5"])
def test_no_limit_and_malformed_limits_leave_the_hosts_memory(make_host: MakeHost, text: str) -> None:
    assert memory_limit(make_host(v2("/j") | {"/sys/fs/cgroup/j/memory.max": text}), ALONE).value == 200 * GIB


def test_use_above_the_limit_leaves_nothing(make_host: MakeHost) -> None:
    group = {"/sys/fs/cgroup/j/memory.max": "1000", "/sys/fs/cgroup/j/memory.current": "2000"}
    assert memory_limit(make_host(v2("/j") | group), ALONE).value == 0


def test_process_limit_of_the_group_less_what_runs(make_host: MakeHost) -> None:
    group = {"/sys/fs/cgroup/job/pids.max": "200\n", "/sys/fs/cgroup/job/pids.current": "50\n"}
    limit = process_limit(make_host(v2("/job") | group), ALONE)
    assert limit == LimitReading(150, "cgroup v2 pids limit /job: 200, of which 50 in use")


def test_no_process_limit_of_the_group(make_host: MakeHost) -> None:
    with_group = process_limit(make_host(v2("/job") | {"/sys/fs/cgroup/job/pids.max": "max\n"}), ALONE)
    assert "pids" not in with_group.source


@pytest.mark.parametrize("count", [1, 2, 8])
def test_no_limit_stays_none_when_shared(count: int) -> None:
    assert math.isinf(Ranks(count, "LOCAL_WORLD_SIZE").share(LimitReading(math.inf, "")).value)
