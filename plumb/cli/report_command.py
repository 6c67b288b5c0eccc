"""`plumb report`: the report on a terminal, and a plan in the formats of other tools."""

from __future__ import annotations

from pathlib import Path

from plumb.core import plan
from plumb.core.errors import CommandError
from plumb.report.output import write_plainly
from plumb.report.plan_report import show_plan


def report(path: Path, html: Path | None, perfetto: Path | None, as_json: bool) -> None:
    """Print a plan, or write it to the given files. Raise ExplainedError if a file can't be used."""
    try:
        found = plan.read(path)
        if as_json:
            write_plainly(plan.encode(found).decode().rstrip())
        if html or perfetto or not as_json:
            show_plan(found, str(path), html, perfetto)
    except ValueError as error:
        raise CommandError(f"{path}: {error}. Tune again to replace the plan") from None
