"""`plumb run`: runs a script with its plan."""

from __future__ import annotations

import os
from pathlib import Path

from plumb.cli.plan_file import plan_of
from plumb.core.errors import CommandError, ExplainedError
from plumb.script import launcher
from plumb.tuning.child_orders import Orders, Target


def run(target: Target, arguments: list[str], plan_path: Path | None, check_rate: float | None = None) -> None:
    """Replace this process by the script, with its plan applied.

    Args:
        target: The script or module.
        arguments: The script's arguments.
        plan_path: File of the plan; None for the script's own.
        check_rate: Share of batches to check, from 0 to 1; None for the default.

    Raises:
        ExplainedError: There is no plan, or the share is invalid.
    """
    _ask_for_checks(check_rate)
    try:
        path, _ = plan_of(target, plan_path)
    except ExplainedError:
        raise
    except Exception:
        # The script's own process reports the error and runs the script without the plan.
        path = plan_path or Path(f"{target.stem}.plumb.json")
    launcher.replace_by(Orders(target, plan_file=str(path.absolute())), arguments)


def _ask_for_checks(rate: float | None) -> None:
    """Set the share of batches to check, for the script's process and its children. Raise CommandError if invalid."""
    from plumb.runtime.checks.check_rate import VARIABLE, asked_rate

    if rate is not None:
        os.environ[VARIABLE] = str(rate)
    try:
        asked_rate()
    except ValueError as error:
        raise CommandError(f"{VARIABLE}: {error}", 2) from None
