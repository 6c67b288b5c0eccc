"""`plumb apply`: the plan as a patch of the source."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plumb.cli.arguments import source_file
from plumb.cli.plan_file import plan_of
from plumb.core.errors import CommandError
from plumb.report.output import has_no_color
from plumb.tuning.child_orders import Target

if TYPE_CHECKING:
    from plumb.report.patch.patch import FilePatch

_DIFF_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def apply(target: Target, plan_path: Path | None, write: bool) -> int:
    """Show the plan as a patch of the source, or write it into the source.

    Returns the exit code. Raises ExplainedError if there is no plan or a file can't be written.
    """
    from plumb.report.patch.patch import patch

    path, found = plan_of(target, plan_path)
    module = ["-m"] if target.is_module else []
    given = ["--plan", str(plan_path)] if plan_path else []
    command = shlex.join(["plumb", "run", *given, *module, target.name])
    named = source_file(target)
    made = patch(found, named, target.folder(), command)
    for file in made.files:
        if not write or file.path.resolve() != named.resolve():
            # A file that the user didn't name is never changed without being shown.
            _show(file)
        if write:
            try:
                file.write()
            except OSError as error:
                raise CommandError(f"{file.path}: cannot be written ({error.strerror})") from None
            click.echo(f"plumb: wrote {os.path.relpath(file.path)}")
    if not made.files and not made.remarks and not made.problems:
        keeps = all(loader.config == loader.baseline.config for loader in found.loaders)
        why = "keeps the script's own arguments" if keeps else f"says what {target.name} has already"
        click.echo(f"plumb: nothing to change: {path} {why}")
    for line in (*made.remarks, *made.problems):
        click.echo(line if line.startswith(" ") else f"plumb: {line}", err=True)
    return 1 if made.problems else 0


def _show(file: FilePatch) -> None:
    colour = False if has_no_color() else None
    for line in file.diff().splitlines(keepends=True):
        click.echo(click.style(line, fg=_DIFF_COLOURS.get(line[:1])), nl=False, color=colour)
