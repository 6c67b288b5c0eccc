"""What a GPU would do for a pipeline, in words."""

from __future__ import annotations

import io
from dataclasses import replace

import networkx as nx
from rich.console import Console

from plumb.core.device_profile import DeviceProfile, OnDevice
from plumb.core.gpu import GpuReading
from plumb.host.gpu_usage import FIGURES
from plumb.report.terminal_device import render
from plumb.tracing.pipeline import Operator, Pipeline


def operator(name: str, wall_seconds: float) -> Operator:
    return Operator(name, name, "transform", "", (), (), wall_seconds=wall_seconds)


GRAPH = nx.DiGraph()
GRAPH.add_node("read [raw]", operator=operator("read [raw]", 0.001))
GRAPH.add_node("x / 255", operator=operator("x / 255", 0.0004))
GRAPH.add_edge("read [raw]", "x / 255")
PIPELINE = Pipeline(GRAPH, "Images", 16, 64, 0.0014, 0.0014, 0.0)
UNREAD = GpuReading(**dict.fromkeys(FIGURES), reasons=dict.fromkeys(FIGURES, "Not Supported"))
READ = replace(
    UNREAD,
    utilization_share=0.37,
    memory_used_bytes=2**30,
    memory_total_bytes=40 * 2**30,
    pcie_received_bytes_per_second=3.0 * 2**30,
)
PROFILE = DeviceProfile(
    device="NVIDIA A100",
    reason=None,
    batch_samples=64,
    operators={"read [raw]": OnDevice(None, "no tensor"), "x / 255": OnDevice(2e-6, None)},
    copy_bytes=38 * 2**20,
    pinned_bytes_per_second=24.0 * 2**30,
    pageable_bytes_per_second=6.0 * 2**30,
    gpu=READ,
)


def lines(profile: DeviceProfile) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    console.print(render(profile, PIPELINE))
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_without_a_gpu_there_is_one_line() -> None:
    assert lines(DeviceProfile.none("NVML Shared [Library] Not Found")) == ["no GPU: NVML Shared [Library] Not Found"]


def test_operators_copies_and_the_state_of_the_gpu() -> None:
    assert lines(PROFILE) == [
        "NVIDIA A100",
        "operator CPU device, in batches of 64",
        "read [raw] 1 ms no tensor",
        "x / 255 400 µs 2 µs",
        "from the host, 38 MiB at once: 24 GiB/s pinned, 6 GiB/s not pinned",
        "now: 37% busy, 1 GiB of 40 GiB in use, PCIe 3 GiB/s from the host",
    ]


def test_what_could_not_be_measured() -> None:
    silent = replace(PROFILE, pinned_bytes_per_second=None, pageable_bytes_per_second=None, gpu=UNREAD)
    assert lines(silent)[-2:] == ["from the host, 38 MiB at once: not measured", "now: Not Supported"]
    assert lines(replace(PROFILE, gpu=None))[-1].startswith("from the host")
