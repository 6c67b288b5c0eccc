"""Run of a script in a session, as `plumb tune` and `plumb trace` show it: events in, lines and errors out."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plumb.core import events
from plumb.core.errors import CommandError
from plumb.core.files_outcome import FilesOutcome
from plumb.core.plan import LoaderResult
from plumb.report.output import console
from plumb.report.progress import Display
from plumb.script import launcher
from plumb.script.hand_made_batches import in_source
from plumb.tuning.child_orders import Orders, Target
from plumb.tuning.trial_journal import Unfinished

_FILES_SAID = 5
_USAGE_ERROR = 2


@dataclass
class ScriptStory:
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


def run_in_session(
    orders: Orders, arguments: list[str], quiet: bool, kept: Unfinished | None = None
) -> tuple[ScriptStory, launcher.ScriptOutcome]:
    """Run the script in a session and print its warnings. Raise CommandError if the session failed."""
    clean = orders.tune is not None and orders.tune.clean
    _say(_what_starts(orders))
    with Display(console(stderr=True), quiet) as display:
        story = ScriptStory(display, kept)
        try:
            outcome = launcher.run_tuned(orders, arguments, story, story.output, on_files=story.filed, clean=clean)
        finally:
            if not story.plans:
                # Without plans there is no report that names the files.
                display.say(
                    story.files.sentences(
                        Path.cwd(), _FILES_SAID, is_trace=orders.tune is not None and orders.tune.trace_only
                    )
                )
    for warning in story.warnings:
        _say(warning)
    if story.failed is not None:
        raise CommandError(story.failed.text, story.failed.exit_code)
    return story, outcome


def _say(line: str) -> None:
    console(stderr=True).print(f"plumb: {line}", markup=False, highlight=False, soft_wrap=True)


def _what_starts(orders: Orders) -> str:
    """Return a line that says that the script really runs, and what becomes of the files that it writes."""
    wishes = orders.tune
    until = "until a sample is traced" if wishes is not None and wishes.trace_only else "training included"
    new = "removed" if wishes is not None and wishes.clean else "listed"
    return (
        f"{orders.target.name} is run for real, {until}, and may write files as always; at the end, those that existed "
        f"before are put back, and new ones are {new}"
    )


def nothing_done(
    orders: Orders, story: ScriptStory, outcome: launcher.ScriptOutcome, misplaced: Sequence[str] = ()
) -> CommandError:
    """Return the error that explains why no loader was tuned or traced.

    `misplaced` are words after the script that are options of plumb's command.
    """
    assert orders.tune is not None
    target, is_trace = orders.target, orders.tune.trace_only
    do, done, end = ("trace", "traced", "") if is_trace else ("tune", "tuned", ". Nothing was written")
    seen = ", ".join(f"{loader.name} ({loader.site})" for loader in story.found)
    if outcome.timed_out and not story.iterated:
        where = f" It was at {outcome.stack[0]}." if outcome.stack else ""
        what = f"; it constructed {seen}" if seen else _hand_made_batches(target)
        return CommandError(
            f"no DataLoader was iterated within {outcome.seconds:.0f} s{what}.{where} If it only needs longer to "
            "start, give it more with --budget"
        )
    if outcome.timed_out:
        return CommandError(f"no loader was {done} within the budget; give it more with --budget")
    if outcome.exit_code < 0:
        name = signal.Signals(-outcome.exit_code).name
        memory = "; it was probably out of memory" if name == "SIGKILL" else ""
        return CommandError(f"the script was ended by {name} before a loader was {done}{memory}{end}")
    if outcome.exit_code:
        # Parsers of command lines end a script with this code if they don't know an option.
        hint = ""
        if misplaced and outcome.exit_code == _USAGE_ERROR:
            are, them = ("is an option", "it") if len(misplaced) == 1 else ("are options", "them")
            hint = f". {' and '.join(misplaced)} {are} of plumb {do}: write {them} before the script"
        return CommandError(
            f"the script ended with exit code {outcome.exit_code} before a loader was {done}; its own message is above"
            f"{hint}{end}"
        )
    if story.iterated:
        return CommandError(f"the script ended before there was anything to {do}{end}")
    what = f"it constructed {seen}, but did not iterate it" if seen else "it has none" + _hand_made_batches(target)
    if story.ended is not None and story.ended.had_children:
        what += (
            "; loaders of processes that it started can't be seen: start those from outside, by torchrun for example"
        )
    return CommandError(f"the script ended without iterating a DataLoader: {what}{end}")


def _hand_made_batches(target: Target) -> str:
    """Return a phrase that names the function that makes batches by hand in the script's source, or ""."""
    found = "" if target.is_module else in_source(target.name)
    return f"; {found}" if found else ""
