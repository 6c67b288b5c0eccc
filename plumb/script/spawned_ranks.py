"""Ranks that a script starts itself, with `torch.multiprocessing.spawn` or functions based on it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from plumb.script import interception

_HOME = "torch.multiprocessing.spawn"


@dataclass(frozen=True)
class PlannedRank:
    """A rank's function that first applies the plan in a file; it is pickled, and called in a process without plumb."""

    function: Callable[..., Any]
    plan_file: str

    def __call__(self, *arguments: Any) -> Any:
        """Apply the plan to the loaders of this process, and run the rank's function."""
        try:
            from plumb.core import plan
            from plumb.script.plan_handler import PlanHandler

            interception.install(PlanHandler(plan.read(Path(self.plan_file))))
        except Exception as error:
            from plumb.instrument import failure_report

            failure_report.say(error, "a rank runs without the plan")
        return self.function(*arguments)


def listen(started: Callable[[Callable[..., Any], int, FrameType], Callable[..., Any]]) -> None:
    """Call `started` with a rank's function, the number of ranks, and the frame that starts them.

    The ranks run the function that `started` returns.
    """
    interception.once_imported(_HOME, lambda: _patch(started))


def _patch(started: Callable[[Callable[..., Any], int, FrameType], Callable[..., Any]]) -> None:
    module: Any = sys.modules[_HOME]
    start = module.start_processes

    @functools.wraps(start)
    def patched(fn: Any, args: Any = (), nprocs: int = 1, *others: Any, **keywords: Any) -> Any:
        return start(started(fn, nprocs, sys._getframe(1)), args, nprocs, *others, **keywords)

    module.start_processes = patched
    # If torch is imported already, its package has the function by name.
    package: Any = sys.modules["torch.multiprocessing"]
    if getattr(package, "start_processes", None) is start:
        package.start_processes = patched
