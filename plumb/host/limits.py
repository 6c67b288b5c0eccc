"""Limits of this process on its host."""

from __future__ import annotations

import difflib
import functools
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from plumb.core.gpu import Gpu
from plumb.core.units import is_number
from plumb.host.cpu_limit import cpu_limit
from plumb.host.disk_limit import disk
from plumb.host.gpus import gpus
from plumb.host.host_files import HostFiles
from plumb.host.local_ranks import ranks_on_host
from plumb.host.memory_limit import memory_limit, shm_limit
from plumb.host.process_limits import open_file_limits, process_limit

T = TypeVar("T")

ASKED_FOR = "asked for"
LOWERABLE = (
    "cpus",
    "memory_bytes",
    "shm_bytes",
    "open_files",
    "processes",
    "disk_bytes",
    "max_workers",
    "max_connections",
)
"""The limits that a user may lower, by their names."""

_NUMBERS = (*LOWERABLE, "open_files_most")
_NEVER_NONE = ("cpus", "max_connections")


def _explaining_names(cls: type[T]) -> type[T]:
    """Let the constructor of a dataclass say what to write in place of a name that is none of its fields."""
    construct, known = cls.__init__, [each.name for each in fields(cls)]  # type: ignore[arg-type]

    @functools.wraps(construct)
    def explained(self: T, *args: Any, **kwargs: Any) -> None:
        for name, value in kwargs.items():
            if name not in known:
                meant = difflib.get_close_matches(name, known, 1, 0.3)
                near = f"{meant[0]}={_example(meant[0])}, or " if meant else ""
                raise TypeError(f"{cls.__name__} has no {name}={value!r}: write {near}one of {', '.join(known)}")
        construct(self, *args, **kwargs)

    cls.__init__ = explained  # type: ignore[assignment]
    return cls


def _example(name: str) -> str:
    return "8 * 2**30" if name.endswith("_bytes") else "4"


@_explaining_names
@dataclass(frozen=True)
class Limits:
    """Limits of one rank. `math.inf` means that no limit is known, so that limits can be compared and divided.

    Limits that the ranks on this host share (all but open files) are one rank's part.

    Attributes:
        cpus: CPU seconds per second, not a whole number under a quota. It doesn't limit how many workers may *wait*.
        memory_bytes: Total memory, including what this process and its descendants use already.
        shm_bytes: Free space in /dev/shm. It counts as memory as well.
        open_files: Files that one process may hold open.
        open_files_most: Number to which a process may raise `open_files` by itself.
        processes: Processes and threads, counted alike, that may still be started.
        disk_bytes: Free space of the cache folder.
        disk_kind: `ssd`, `rotating`, `network`, `tmpfs` or `unknown`; None if no cache folder was given.
        max_workers: Workers that the user allows; hosts have no such limit.
        max_connections: Samples that the user allows to be read at the same time; hosts have no such limit.
        gpus: GPUs that this process may use.
        sharing_strategy: Way in which torch shares tensors between processes; None if torch isn't imported yet.
        sources: For each known limit, where it was read.

    Raises:
        TypeError: A limit is of a wrong class, or has a name that is none of these.
        ValueError: A limit is negative or NaN, or there are 0 CPUs or connections.

    >>> import plumb
    >>> plumb.Limits.detect().lowered(cpus=1.0).cpus
    1.0
    """

    cpus: float = math.inf
    memory_bytes: float = math.inf
    shm_bytes: float = math.inf
    open_files: float = math.inf
    open_files_most: float = math.inf
    processes: float = math.inf
    disk_bytes: float = math.inf
    disk_kind: str | None = None
    max_workers: float = math.inf
    max_connections: float = math.inf
    gpus: tuple[Gpu, ...] = ()
    sharing_strategy: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            value = getattr(self, name)
            is_above = name in _NEVER_NONE
            if not is_number(value):
                raise TypeError(f"{name}={value!r}: a limit is a number, for example {name}={_example(name)}")
            # This form of the comparison also refuses NaN.
            if not value >= 0 or (is_above and value == 0):
                raise ValueError(f"{name}={value}: a limit must be a number {'above' if is_above else 'from'} 0")

    @classmethod
    def detect(cls, cache_dir: str | os.PathLike[str] | None = None) -> Limits:
        """Detect the present limits of this process on this host.

        Args:
            cache_dir: Folder for stored samples, on whose disk `disk_bytes` are free; it need not exist. None for none.

        Returns:
            The limits, with the place where each was read.

        Raises:
            OSError: `cache_dir` is in a folder that this user may not read.
        """
        return _detect(HostFiles(), cache_dir)

    def lowered(
        self,
        *,
        cpus: float = math.inf,
        memory_bytes: float = math.inf,
        shm_bytes: float = math.inf,
        open_files: float = math.inf,
        processes: float = math.inf,
        disk_bytes: float = math.inf,
        max_workers: float = math.inf,
        max_connections: float = math.inf,
    ) -> Limits:
        """Return these limits, replaced by each given one that is smaller.

        Args:
            cpus: CPU seconds per second.
            memory_bytes: Total memory, including what is in use.
            shm_bytes: Space in /dev/shm.
            open_files: Files that one process may hold open; it can't raise that.
            processes: Processes and threads that may still be started.
            disk_bytes: Space in the cache folder.
            max_workers: Workers of a loader.
            max_connections: Samples of a loader that are read at the same time.

        Returns:
            The lower limits, whose `sources` say that they were asked for.

        Raises:
            ValueError: A limit is negative or not a number, or there are 0 CPUs or connections.
        """
        asked = Limits(
            cpus=cpus,
            memory_bytes=memory_bytes,
            shm_bytes=shm_bytes,
            open_files=open_files,
            open_files_most=open_files,
            processes=processes,
            disk_bytes=disk_bytes,
            max_workers=max_workers,
            max_connections=max_connections,
        )
        lower = {name: getattr(asked, name) for name in _NUMBERS if getattr(asked, name) < getattr(self, name)}
        sources = {**self.sources, **dict.fromkeys(lower, ASKED_FOR)}
        return replace(self, **lower, sources=sources)


def _detect(host: HostFiles, cache_dir: str | os.PathLike[str] | None) -> Limits:
    ranks = ranks_on_host(host)
    open_files, open_files_most = open_file_limits()
    readings = {
        "cpus": cpu_limit(host, ranks),
        "memory_bytes": memory_limit(host, ranks),
        "shm_bytes": shm_limit(host, ranks),
        "open_files": open_files,
        "processes": process_limit(host, ranks),
    }
    disk_kind = None
    if cache_dir is not None:
        found = disk(host, Path(cache_dir), ranks)
        readings["disk_bytes"], disk_kind = found.free, found.kind
    devices, devices_source = gpus(host.environ)
    sources = {name: reading.source for name, reading in readings.items() if math.isfinite(reading.value)}
    return Limits(
        **{name: reading.value for name, reading in readings.items()},
        open_files_most=open_files_most,
        disk_kind=disk_kind,
        gpus=devices,
        sharing_strategy=_sharing_strategy(),
        sources={**sources, "gpus": devices_source},
    )


def _sharing_strategy() -> str | None:
    # Importing torch takes seconds and would start its thread pools, so it is queried only if the script imported it.
    torch_multiprocessing = sys.modules.get("torch.multiprocessing")
    ask = getattr(torch_multiprocessing, "get_sharing_strategy", None)
    return None if ask is None else str(ask())
