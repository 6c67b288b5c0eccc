"""What the parent tells the child process to do, as data."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec


class Target(msgspec.Struct, frozen=True):
    """The script to run: a path, or a module's name as after `python -m`."""

    name: str
    is_module: bool

    @property
    def stem(self) -> str:
        """The name that the plan file is called after."""
        return self.name.rpartition(".")[2] if self.is_module else Path(self.name).stem

    def folder(self) -> Path:
        """The folder of the script, which it may write beside."""
        return Path.cwd() if self.is_module else Path(self.name).resolve().parent


class TuneOrders(msgspec.Struct, frozen=True):
    """The options of `plumb tune` that concern the child. None stands for what the host allows.

    `cache_memory_bytes` is what samples may take in memory, `cache_folder` where they may be stored on a disk.
    `study_url` is an Optuna storage, `kept_file` holds what an interrupted tuning measured (see `unfinished.py`).
    With `clean`, what the script made while it was tuned is removed; with `plain`, torch's own arguments alone are
    tuned. `trace_only` is for `plumb trace`, which takes the
    same way to a script's loaders. Of `ranks` that train together one tunes, and the others have `takes_part`;
    `launch_file` is how they hear that it is over.
    """

    budget_seconds: float
    seed: int = 0
    may_reorder: bool = False
    on_device: bool = False
    cpus: float | None = None
    memory_bytes: int | None = None
    max_workers: int | None = None
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
    """Run `target`, and either tune it or apply the plan in a file to it."""

    target: Target
    tune: TuneOrders | None = None
    plan_file: str | None = None
    events_descriptor: int | None = None
    stack_descriptor: int | None = None
    sockets_folder: str | None = None

    def to_argument(self) -> str:
        """Return the orders as a command's argument; paths that are no UTF-8 come through."""
        return json.dumps(msgspec.to_builtins(self))

    @classmethod
    def from_argument(cls, argument: str) -> Orders:
        """Return the orders in a command's argument."""
        return msgspec.convert(json.loads(argument), cls)
