"""Functions of the commands: each takes parsed arguments, and returns an exit code or raises ExplainedError.

`plumb.cli.errors` turns an error into a line and an exit code. Here errors are caught only to say more in the line.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from plumb.cli.arguments import source_file
from plumb.core import events, plan
from plumb.core.errors import CommandError, ExplainedError
from plumb.core.files_outcome import FilesOutcome
from plumb.core.plan import LoaderResult, Plan
from plumb.core.printable import printable
from plumb.host.host_files import HostFiles
from plumb.instrument import failure_report
from plumb.report.output import console, has_no_color, wide_console, write_plainly
from plumb.report.progress import Display
from plumb.runtime.store import catalog
from plumb.script import launcher
from plumb.script.distributed import launch_of, signal_when_over, take_part
from plumb.script.hand_made_batches import in_source
from plumb.tuning.orders import Orders, Target, TuneOrders
from plumb.tuning.trial_journal import Unfinished

if TYPE_CHECKING:
    from plumb.model.whatif import AssumedHost

_FILES_SAID = 5
_KEPT = "What was measured is kept: tune again to go on from there"
_DIFF_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


@dataclass
class _TuningStory:
    """Collection of the events that the script's process has sent so far."""

    display: Display
    kept: Unfinished | None = None
    plans: list[LoaderResult] = field(default_factory=list)
    found: list[events.LoaderFound] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    has_failures: bool = False
    iterated: bool = False
    startup_seconds: float | None = None
    traced: events.Traced | None = None
    failed: events.Failed | None = None
    ended: events.Ended | None = None
    files: FilesOutcome = field(default_factory=FilesOutcome)

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.LoaderFound():
                self.found.append(event)
            case events.LoaderIterated():
                self.iterated = True
                self.display.phase(f"{event.name} ({event.site}): watching your loop")
            case events.TuningStarted():
                if self.startup_seconds is None:
                    self.startup_seconds = event.seconds
            case events.Phase():
                self.display.phase(event.text)
            case events.TrialDone() if self.kept is not None:
                self.kept.add(event)
            case events.LoaderDone():
                self.plans.append(event.plan)
            case events.Traced():
                self.traced = event
            case events.Warned():
                self.warnings.append(event.text)
                self.has_failures = self.has_failures or event.is_failure
            case events.Failed():
                self.failed = event
            case events.Ended():
                self.ended = event

    def filed(self, files: FilesOutcome) -> None:
        """Store what was done with the script's files."""
        self.files = files

    def output(self, data: bytes) -> None:
        """Show what the script prints, but not what multiprocessing's helpers print after plumb ended the script."""
        if self.ended is None or not self.ended.by_plumb:
            self.display.output(data)


def tune(
    target: Target,
    arguments: list[str],
    orders: TuneOrders,
    output: Path | None,
    as_json: bool,
    host: dict[str, object],
) -> int:
    """Tune a script and write its plan.

    Args:
        target: The script or module.
        arguments: The script's arguments.
        orders: The user's wishes.
        output: File of the plan; None for the script's own.
        as_json: Whether to print the plan as JSON instead of the report.
        host: Description of the host for the plan.

    Returns:
        The exit code.

    Raises:
        ExplainedError: There is no plan.
    """
    path = output or Path(f"{target.stem}.plumb.json")
    if not path.parent.is_dir():
        raise CommandError(f"{path.parent} is not a folder: the plan can't be written there", 2)
    launch = launch_of(HostFiles())
    if launch is not None and not launch.tunes:
        return take_part(Orders(target, tune=orders), arguments, launch)
    started = time.monotonic()
    kept = None if orders.study_url else Unfinished(target, arguments)
    orders = msgspec.structs.replace(orders, kept_file=str(kept.path) if kept else None)
    if launch is not None:
        orders = msgspec.structs.replace(orders, ranks=launch.ranks, launch_file=launch.ended_file)
    try:
        with signal_when_over(launch):
            story, outcome = _listen(Orders(target, tune=orders), arguments, as_json, kept)
        if not story.plans:
            raise _nothing_done(target, story, outcome)
    except (ExplainedError, KeyboardInterrupt) as error:
        if kept is None or not kept.count:
            raise
        text, code = (str(error), error.exit_code) if isinstance(error, ExplainedError) else ("stopped", 130)
        text = f"{text.rstrip('.')}. {_KEPT}"
        raise CommandError(text, code) from None
    startup = story.startup_seconds or 0.0
    found = Plan(
        script=printable(target.name),
        is_module=target.is_module,
        host=dict(host),
        tuning_seconds=time.monotonic() - started - startup,
        startup_seconds=startup,
        loaders=tuple(story.plans),
        written_files=story.files.written,
        files=story.files,
    )
    try:
        plan.write(found, path)
    except OSError as error:
        text = f"{path}: the plan cannot be written ({error.strerror}); name another place with --output"
        raise CommandError(text) from None
    except Exception as error:
        text = failure_report.sentence(error, f"{path} was not written", found)
        raise CommandError(f"{text} {_KEPT}" if kept is not None and kept.count else text) from None
    if kept is not None and not story.has_failures:
        kept.forget()
    if as_json:
        write_plainly(plan.encode(found).decode().rstrip())
    else:
        # The library for graphs takes as long to import as everything else, and `plumb run` doesn't need it.
        try:
            from plumb.report.terminal import print_report

            print_report(found, str(path), wide_console())
        except Exception as error:
            failure_report.say(error, f"the plan is in {path} all the same", found)
    return 0


def trace(target: Target, arguments: list[str], orders: TuneOrders, form: str) -> int:
    """Print the operator graph of a sample of the script's loader, as a "tree", as "json" or as "dot".

    Returns the exit code. Raises ExplainedError if there is nothing to show.
    """
    from plumb.tracing.stored_pipeline import from_node_link

    story, outcome = _listen(Orders(target, tune=orders), arguments, quiet=form != "tree")
    if story.traced is None:
        raise _nothing_done(target, story, outcome)
    if form == "json":
        write_plainly(json.dumps(story.traced.graph, indent=2))
    elif form == "dot":
        write_plainly(from_node_link(story.traced.graph).to_dot())
    else:
        from plumb.core.device_profile import DeviceProfile
        from plumb.report.terminal_device import render as render_device
        from plumb.report.trace_tree import render

        output, pipeline = wide_console(), from_node_link(story.traced.graph)
        output.print(f"{story.traced.name}  {story.traced.site}", highlight=False)
        output.print(render(pipeline))
        output.print(render_device(DeviceProfile.from_dict(story.traced.device), pipeline))
    return 0


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
        path, _ = _plan_of(target, plan_path)
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


def apply(target: Target, plan_path: Path | None, write: bool) -> int:
    """Show the plan as a patch of the source, or write it into the source.

    Returns the exit code. Raises ExplainedError if there is no plan or a file can't be written.
    """
    from plumb.report.patch.patch import patch

    path, found = _plan_of(target, plan_path)
    module = ["-m"] if target.is_module else []
    given = ["--plan", str(plan_path)] if plan_path else []
    command = shlex.join(["plumb", "run", *given, *module, target.name])
    made = patch(found, source_file(target), target.folder(), command)
    for file in made.files:
        if write:
            try:
                file.write()
            except OSError as error:
                raise CommandError(f"{file.path}: cannot be written ({error.strerror})") from None
            click.echo(f"plumb: wrote {os.path.relpath(file.path)}")
        else:
            colour = False if has_no_color() else None
            for line in file.diff().splitlines(keepends=True):
                click.echo(click.style(line, fg=_DIFF_COLOURS.get(line[:1])), nl=False, color=colour)
    if not made.files and not made.remarks and not made.problems:
        keeps = all(loader.config == loader.baseline.config for loader in found.loaders)
        why = "keeps the script's own arguments" if keeps else f"says what {target.name} has already"
        click.echo(f"plumb: nothing to change: {path} {why}")
    for line in (*made.remarks, *made.problems):
        click.echo(line if line.startswith(" ") else f"plumb: {line}", err=True)
    return 1 if made.problems else 0


def _plan_of(target: Target, plan_path: Path | None) -> tuple[Path, Plan]:
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


def predict(path: Path, host: AssumedHost, as_json: bool) -> int:
    """Print the predictions for a plan's loaders on `host`. Raise ExplainedError if the plan lacks what they need."""
    from plumb.model.serialization import from_plain
    from plumb.model.whatif import forecast
    from plumb.report.predict import render, to_plain

    found = plan.read(path)
    forecasts = {}
    for loader in found.loaders:
        if loader.model is None:
            raise CommandError(f"{path} does not hold what the model needs: an older plumb wrote it. Tune again")
        try:
            forecasts[loader.name] = forecast(*from_plain(loader.model), host)
        except ValueError as error:
            raise CommandError(f"{path}: {loader.name}: {error}. Tune again to replace the plan") from None
    if as_json:
        write_plainly(json.dumps({name: to_plain(each) for name, each in forecasts.items()}, indent=2))
    else:
        wide_console().print(render(found, forecasts))
    return 0


def list_stores() -> None:
    """Print the sample stores on this host. Raise ExplainedError if a folder of theirs can't be trusted."""
    from plumb.report.store_list import print_stores

    with _folder_errors():
        print_stores(catalog.find_stores(), time.time(), wide_console())


def clear_stores(folder: Path | None) -> None:
    """Remove the stores that no process uses, in a cache folder or everywhere. Raise as `list_stores` does."""
    from plumb.report.store_list import print_cleared

    with _folder_errors():
        print_cleared(*catalog.clear_stores(folder), wide_console())


@contextlib.contextmanager
def _folder_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(f"{error.filename}: {(error.strerror or str(error)).lower()}") from None


def _listen(
    orders: Orders, arguments: list[str], quiet: bool, kept: Unfinished | None = None
) -> tuple[_TuningStory, launcher.ScriptOutcome]:
    """Run the script in a session and print its warnings. Raise CommandError if the session failed."""
    clean = orders.tune is not None and orders.tune.clean
    with Display(console(stderr=True), quiet) as display:
        story = _TuningStory(display, kept)
        try:
            outcome = launcher.run_tuned(orders, arguments, story, story.output, on_files=story.filed, clean=clean)
        finally:
            if not story.plans:
                # Without plans there is no report that names the files.
                display.say(story.files.sentences(Path.cwd(), _FILES_SAID))
    for warning in story.warnings:
        console(stderr=True).print(f"plumb: {warning}", markup=False, highlight=False, soft_wrap=True)
    if story.failed is not None:
        raise CommandError(story.failed.text, story.failed.exit_code)
    return story, outcome


def _nothing_done(target: Target, story: _TuningStory, outcome: launcher.ScriptOutcome) -> CommandError:
    """Return the error that explains why no loader was tuned or traced."""
    seen = ", ".join(f"{loader.name} ({loader.site})" for loader in story.found)
    if outcome.timed_out and not story.iterated:
        where = f" It was at {outcome.stack[0]}." if outcome.stack else ""
        what = f"; it constructed {seen}" if seen else _hand_made_batches(target)
        return CommandError(
            f"no DataLoader was iterated within {outcome.seconds:.0f} s{what}.{where} If it only needs longer to "
            "start, give it more with --budget"
        )
    if outcome.timed_out:
        return CommandError("the tuning did not finish within its budget; give it more with --budget")
    if outcome.exit_code < 0:
        name = signal.Signals(-outcome.exit_code).name
        memory = "; it was probably out of memory" if name == "SIGKILL" else ""
        return CommandError(f"the script was ended by {name} before a loader was tuned{memory}. Nothing was written")
    if outcome.exit_code:
        return CommandError(
            f"the script ended with exit code {outcome.exit_code} before a loader was tuned; its own message is above. "
            "Nothing was written"
        )
    if story.iterated:
        return CommandError("the script ended before there was anything to tune. Nothing was written")
    what = f"it constructed {seen}, but did not iterate it" if seen else "it has none" + _hand_made_batches(target)
    if story.ended is not None and story.ended.had_children:
        what += (
            "; loaders of processes that it started can't be seen: start those from outside, by torchrun for example"
        )
    return CommandError(f"the script ended without iterating a DataLoader: {what}. Nothing was written")


def _hand_made_batches(target: Target) -> str:
    """Return a phrase that names the function that makes batches by hand in the script's source, or ""."""
    found = "" if target.is_module else in_source(target.name)
    return f"; {found}" if found else ""
