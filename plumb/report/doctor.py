"""Output of `plumb doctor`: the host's limits, where they were read, and advice on them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from plumb.core.units import format_bytes
from plumb.host import Gpu, Limits, Machine, advice


@dataclass(frozen=True)
class Doctor:
    """Rich renderable of the limits: a table on a terminal, otherwise one line per limit."""

    limits: Limits
    machine: Machine

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(_headline(self.machine))
        yield from self._table() if console.is_terminal else self._lines()
        for sentence in advice(self.limits, self.machine):
            yield Text.assemble(("advice: ", "bold yellow"), sentence)

    def _table(self) -> RenderResult:
        table = Table("limit", "allowed", "where it was read", box=None, header_style="dim", pad_edge=False)
        table.columns[1].style = "bold"
        for name, value, source in _rows(self.limits):
            table.add_row(name, escape(value), escape(source))
        yield Padding(table, (1, 0))

    def _lines(self) -> RenderResult:
        for name, value, source in _rows(self.limits):
            yield Text(f"{name}: {value} ({source})" if source else f"{name}: {value}")


def print_doctor(limits: Limits, machine: Machine, console: Console) -> None:
    """Print the host's limits and advice; lines for files and pipes are never wrapped."""
    console.print(Doctor(limits, machine), soft_wrap=not console.is_terminal)


def _headline(machine: Machine) -> str:
    parts = [f"{machine.cpu_model}, {machine.logical_cpus} CPUs", machine.system, f"Python {machine.python}"]
    if "torch" in machine.packages:
        parts.append(f"torch {machine.packages['torch']}")
    if machine.container is not None:
        parts.append(f"in a container ({machine.container})")
    if machine.ranks > 1:
        parts.append(f"one of {machine.ranks} ranks; limits are one rank's part")
    return "; ".join(parts)


def _rows(limits: Limits) -> list[tuple[str, str, str]]:
    """Return the name, value and source of each limit, formatted for people."""
    values = {
        "cpus": ("CPUs", _count(limits.cpus)),
        "memory_bytes": ("memory", format_bytes(limits.memory_bytes)),
        "shm_bytes": ("shared memory", format_bytes(limits.shm_bytes)),
        "open_files": ("open files", _count(limits.open_files)),
        "processes": ("processes", _count(limits.processes)),
        "max_workers": ("workers", _count(limits.max_workers)),
        "max_connections": ("connections", _count(limits.max_connections)),
        "disk_bytes": (f"cache folder, {limits.disk_kind}", format_bytes(limits.disk_bytes)),
    }
    always = {"cpus", "memory_bytes", "shm_bytes", "open_files", "processes"}
    rows = [
        (name, value, limits.sources.get(key, ""))
        for key, (name, value) in values.items()
        if key in always or math.isfinite(getattr(limits, key))
    ]
    if limits.sharing_strategy is not None:
        rows.append(("tensor sharing", limits.sharing_strategy, "torch.multiprocessing.get_sharing_strategy()"))
    source = limits.sources.get("gpus", "")
    return rows + ([("GPU", _gpu(gpu), source) for gpu in limits.gpus] or [("GPU", "none", source)])


def _count(limit: float) -> str:
    if math.isinf(limit):
        return "no limit known"
    return f"{limit:,.0f}" if limit == int(limit) else f"{limit:.3g}"


def _gpu(gpu: Gpu) -> str:
    parts = [gpu.name]
    if gpu.memory_bytes is not None and gpu.memory_free_bytes is not None:
        parts.append(f"{format_bytes(gpu.memory_bytes)} ({format_bytes(gpu.memory_free_bytes)} free)")
    if gpu.pcie_generation_most is not None and gpu.pcie_width is not None:
        parts.append(f"PCIe {gpu.pcie_generation_most} x{gpu.pcie_width}")
    return ", ".join(parts)
