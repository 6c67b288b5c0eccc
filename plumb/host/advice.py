"""Advice for limits that are too small or misleading."""

from __future__ import annotations

import math
from collections.abc import Iterator

from plumb.core.units import format_bytes
from plumb.host.limits import ASKED_FOR, Limits
from plumb.host.machine import Machine

_GIB = 2**30
# Below these values, ordinary image loaders with a handful of workers run into the limit.
_LITTLE_SHM_BYTES = 1 * _GIB
_LITTLE_MEMORY_BYTES = 2 * _GIB
_LITTLE_DISK_BYTES = 1 * _GIB
_FEW_OPEN_FILES = 1024
_FEW_PROCESSES = 256
_MANY_OPEN_FILES = 65_536


def advice(limits: Limits, machine: Machine) -> list[str]:
    """Return a sentence or two for each limit that a loader is likely to run into; empty if there is none."""
    checks = {
        "cpus": _cpus,
        "memory_bytes": _memory,
        "shm_bytes": _shm,
        "open_files": _open_files,
        "sharing_strategy": _sharing,
        "processes": _processes,
        "disk_bytes": _disk,
        "gpus": _gpus,
    }
    return [
        sentence
        for name, check in checks.items()
        # A limit set by the user needs no advice.
        if limits.sources.get(name) != ASKED_FOR
        for sentence in check(limits, machine)
    ]


def _cpus(limits: Limits, machine: Machine) -> Iterator[str]:
    if limits.cpus < machine.logical_cpus:
        yield (
            f"os.cpu_count() says {machine.logical_cpus}, but this process may use {limits.cpus:.3g} CPUs: "
            "a worker count taken from os.cpu_count() is too high."
        )
    if limits.cpus < machine.usable_cpus:
        yield (
            f"Libraries see {machine.usable_cpus} CPUs and start a thread for each, but may use {limits.cpus:.3g}: "
            f"under a quota all threads stop once it is spent. Set OMP_NUM_THREADS={max(1, math.floor(limits.cpus))}."
        )


def _memory(limits: Limits, machine: Machine) -> Iterator[str]:
    if limits.memory_bytes < _LITTLE_MEMORY_BYTES:
        cures = {
            "docker": " Raise it with: docker run --memory=8g",
            "podman": " Raise it with: podman run --memory=8g",
            "kubernetes": " Raise resources.limits.memory of the container.",
        }
        of_container = limits.sources.get("memory_bytes", "").startswith("cgroup")
        cure = cures.get(machine.container or "", "") if of_container else ""
        yield f"Only {format_bytes(limits.memory_bytes)} of memory may be used, so few workers fit.{cure}"


def _shm(limits: Limits, machine: Machine) -> Iterator[str]:
    if limits.shm_bytes < _LITTLE_SHM_BYTES:
        size = machine.ranks * max(1, math.floor(min(8 * _GIB, limits.memory_bytes / 2) / _GIB))
        cure = {
            "docker": f"Start the container with: docker run --shm-size={size}g",
            "podman": f"Start the container with: podman run --shm-size={size}g",
            "kubernetes": "Mount an emptyDir volume with 'medium: Memory' at /dev/shm.",
        }.get(machine.container or "", f"As root: mount -o remount,size={size}G /dev/shm")
        yield (
            f"/dev/shm has {format_bytes(limits.shm_bytes)} free. Workers hand batches over through it, and die of "
            f"'bus error' where it is full. {cure}"
        )


def _open_files(limits: Limits, machine: Machine) -> Iterator[str]:
    if limits.open_files > _FEW_OPEN_FILES or limits.sharing_strategy == "file_system":
        return
    if limits.open_files_most > limits.open_files:
        cure = f"Before the script: ulimit -n {min(limits.open_files_most, _MANY_OPEN_FILES):.0f}"
    elif machine.container in ("docker", "podman"):
        cure = f"Start the container with: {machine.container} run --ulimit nofile={_MANY_OPEN_FILES}"
    else:
        cure = "In the script: torch.multiprocessing.set_sharing_strategy('file_system')"
    yield (
        f"A process may hold {limits.open_files:.0f} files open, and torch's file_descriptor sharing strategy holds "
        f"one for each tensor on its way. {cure}"
    )


def _sharing(limits: Limits, machine: Machine) -> Iterator[str]:
    if limits.sharing_strategy == "file_system" and limits.open_files > _FEW_OPEN_FILES:
        yield (
            "torch's sharing strategy is file_system: what killed workers leave in /dev/shm stays there. "
            f"{limits.open_files:,.0f} open files are enough for the default, file_descriptor."
        )


def _processes(limits: Limits, machine: Machine) -> Iterator[str]:
    if limits.processes < _FEW_PROCESSES:
        if limits.sources.get("processes", "").startswith("ulimit"):
            cure = "Raise ulimit -u."
        elif machine.container in ("docker", "podman"):
            cure = f"Start the container with: {machine.container} run --pids-limit=4096"
        else:
            cure = "Raise the pids limit of the control group."
        yield (
            f"Only {limits.processes:.0f} more processes and threads may be started, and every worker takes several. "
            f"{cure}"
        )


def _disk(limits: Limits, machine: Machine) -> Iterator[str]:
    if limits.disk_bytes < _LITTLE_DISK_BYTES:
        yield f"The cache folder has {format_bytes(limits.disk_bytes)} free: give --cache-dir one on a larger disk."
    if limits.disk_kind == "tmpfs":
        yield "The cache folder is on a tmpfs: what is stored there takes memory."
    if limits.disk_kind == "network":
        yield "The cache folder is on a network file system: a local disk is likely faster, and safer to lock."
    if limits.disk_kind == "rotating":
        yield (
            "The kernel calls the cache folder's disk rotating, and random reads from such a disk are slow. "
            "Virtual disks often say so wrongly."
        )


def _gpus(limits: Limits, machine: Machine) -> Iterator[str]:
    for gpu in limits.gpus:
        if gpu.pcie_width is not None and gpu.pcie_width_most is not None and gpu.pcie_width < gpu.pcie_width_most:
            yield (
                f"{gpu.name} uses {gpu.pcie_width} of {gpu.pcie_width_most} PCIe lanes: copies to it are that much "
                "slower. See which slot it is in, and what shares it."
            )
