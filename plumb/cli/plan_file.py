"""A script's plan, and the file that it is in."""

from __future__ import annotations

from pathlib import Path

from plumb.core import plan
from plumb.core.plan import Plan
from plumb.core.printable import printable
from plumb.report.output import console
from plumb.tuning.child_orders import Target


def plan_of(target: Target, plan_path: Path | None) -> tuple[Path, Plan]:
    """Return the script's plan and its file; print a line if it was made for another script.

    Raises PlanError if there is none.
    """
    path = plan_path or Path(f"{target.stem}.plumb.json")
    found = plan.read(path)
    if Target(found.script, target.is_module).stem != printable(target.stem):
        console(stderr=True).print(
            f"plumb: {path} was made for {found.script}, not for {target.name}; loaders that it knows by name and file "
            "get its configuration",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    return path, found
