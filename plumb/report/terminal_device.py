"""Terminal report of a pipeline on a GPU."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from plumb.core.device_profile import DeviceProfile
from plumb.core.gpu import GpuReading
from plumb.core.units import format_bytes, format_seconds
from plumb.tracing.pipeline import Pipeline


def render(profile: DeviceProfile, pipeline: Pipeline) -> RenderableType:
    """Show the operators' times on the CPU and on the device, and the copy rates; one line if there is no device."""
    if profile.device is None:
        return Text(f"no GPU: {profile.reason}")
    table = Table("operator", box=None, pad_edge=False, header_style="dim")
    table.add_column("CPU", justify="right")
    table.add_column(f"device, in batches of {profile.batch_samples}", justify="right")
    for operator in pipeline.operators:
        found = profile.operators[operator.id]
        on_device = Text(found.reason or "", style="dim")
        if found.device_seconds is not None:
            on_device = Text(format_seconds(found.device_seconds))
        table.add_row(Text(operator.name), format_seconds(operator.wall_seconds), on_device)
    state = [] if profile.gpu is None else [Text(_state(profile.gpu))]
    return Group(Text(profile.device, style="bold"), table, Text(_copies(profile)), *state)


def _copies(profile: DeviceProfile) -> str:
    rates = {"pinned": profile.pinned_bytes_per_second, "not pinned": profile.pageable_bytes_per_second}
    words = [f"{format_bytes(rate)}/s {kind}" for kind, rate in rates.items() if rate is not None]
    return f"from the host, {format_bytes(profile.copy_bytes)} at once: {', '.join(words) or 'not measured'}"


def _state(gpu: GpuReading) -> str:
    """Return NVML's figures in words, without the unknown ones."""
    words: list[str] = []
    if gpu.utilization_share is not None:
        words.append(f"{gpu.utilization_share:.0%} busy")
    if gpu.memory_used_bytes is not None and gpu.memory_total_bytes is not None:
        words.append(f"{format_bytes(gpu.memory_used_bytes)} of {format_bytes(gpu.memory_total_bytes)} in use")
    if gpu.pcie_received_bytes_per_second is not None:
        words.append(f"PCIe {format_bytes(gpu.pcie_received_bytes_per_second)}/s from the host")
    if gpu.partitions:
        words.append(f"{len(gpu.partitions)} MIG partitions")
    return "now: " + (", ".join(words) or next(iter(gpu.reasons.values()), "nothing known"))
