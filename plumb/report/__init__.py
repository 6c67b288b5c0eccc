"""Reports of a plan for the terminal, HTML and JSON, and `plumb.report`, which shows one from Python.

>>> import plumb, torch
>>> plan = plumb.tune(torch.rand(512, 8), batch_size=64, budget=1)
>>> plumb.report(plan, html="/dev/null")

This is a package, and a function: call it as `plumb.report(plan)`. Everything that it shows is in the plan, or computed
by the model.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plumb.core.plan import Plan

__all__ = ["report"]

# Importing rich draws from Python's generator, which the user may have seeded, so its state is restored.
_drawn = random.getstate()
importlib.import_module("rich.style")
random.setstate(_drawn)


def report(
    plan: Plan | str | os.PathLike[str] | Any,
    *,
    html: str | os.PathLike[str] | None = None,
    perfetto: str | os.PathLike[str] | None = None,
) -> None:
    """Print a plan as `plumb report` does, or write it to files.

    Args:
        plan: What `plumb.tune` returned, or the path of a plan file.
        html: File to write as one page for a browser; None for none.
        perfetto: File to write as a trace for ui.perfetto.dev; None for none.

    Raises:
        TypeError: `plan` is no plan.
        plumb.core.plan.PlanError: There is no such plan; the message is one line.
        plumb.core.errors.CommandError: A file can't be written; the message is one line.
    """
    from plumb.report.plan_report import given_plan, show_plan

    found, path = given_plan(plan, "plumb.report")
    for name, file in (("html", html), ("perfetto", perfetto)):
        if file is not None and not isinstance(file, str | os.PathLike):
            raise TypeError(f'{name}={file!r}: write the path of a file, for example {name}="plan.{name}"')
    show_plan(found, path, Path(html) if html is not None else None, Path(perfetto) if perfetto is not None else None)


class _CallablePackage(types.ModuleType):
    """Package that is a function too: importing a part of it makes `plumb.report` the package."""

    __call__ = staticmethod(report)


sys.modules[__name__].__class__ = _CallablePackage
