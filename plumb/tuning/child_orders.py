"""Orders of the parent to the script's process, as data."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec


class Target(msgspec.Struct, frozen=True):
    """Script to run: a path, or a module's name as after `python -m`."""

    name: str
    is_module: bool

    @property
    def stem(self) -> str:
        """Name from which the plan file's name is made."""
        return self.name.rpartition(".")[2] if self.is_module else Path(self.name).stem

    def folder(self) -> Path:
        """Return the folder of the script, or the current one for a module."""
        return Path.cwd() if self.is_module else Path(self.name).resolve().parent


class TuneOrders(msgspec.Struct, frozen=True):
    """Options of `plumb tune` that concern the script's process. None stands for what the host allows.

    `cache_memory_bytes` is the largest memory for stored samples, `cache_folder` a folder for them on a disk.
    `study_url` is an Optuna storage, `kept_file` has the measurements of an interrupted tuning (`trial_journal.py`).
    With `clean`, files that the script made while it was tuned are removed; with `plain`, only torch's own arguments
    are tuned. `trace_only` is for `plumb trace`, which reaches a script's loaders in the same way. Of `ranks` that
    train together one tunes, and the others have `takes_part`; the file `launch_file` signals the end to them.
    """

    budget_seconds: float
    seed: int = 0
    may_reorder: bool = False
    on_device: bool = False
    cpus: float | None = None
    memory_bytes: int | None = None
    max_workers: int | None = None
    max_connections: int | None = None
    cache_memory_bytes: int | None = None
    cache_folder: str | None = None
    study_url: str | None = None
    kept_file: str | None = None
    trace_only: bool = False
    clean: bool = False
    plain: bool = False
    ranks: int = 1
    takes_part: bool = False
    launch_file: str | None = None


class Orders(msgspec.Struct, frozen=True):
    """Order to run `target`, and either tune it or apply the plan in a file to it."""

    target: Target
    tune: TuneOrders | None = None
    plan_file: str | None = None
    events_descriptor: int | None = None
    stack_descriptor: int | None = None
    sockets_folder: str | None = None

    def to_argument(self) -> str:
        """Return the orders as a command-line argument, which also preserves paths that are no UTF-8."""
        return json.dumps(msgspec.to_builtins(self))

    @classmethod
    def from_argument(cls, argument: str) -> Orders:
        """Return the orders from a command-line argument."""
        return msgspec.convert(json.loads(argument), cls)
