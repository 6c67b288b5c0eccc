"""`plumb tune`: tunes a script and writes its plan."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from plumb.cli.arguments import check_folder
from plumb.cli.script_run import nothing_done, run_in_session
from plumb.core import plan
from plumb.core.errors import CommandError, ExplainedError, OutputError
from plumb.core.plan import Plan
from plumb.core.printable import printable
from plumb.core.units import format_bytes
from plumb.host.host_files import HostFiles
from plumb.host.process_memory import script_bytes
from plumb.instrument import failure_report
from plumb.report.output import wide_console, write_plainly
from plumb.script.distributed import forget_launches, launch_of, signal_when_over, take_part
from plumb.tuning.child_orders import Orders, Target, TuneOrders
from plumb.tuning.trial_journal import Unfinished

_KEPT = "What was measured is kept: tune again to go on from there"


def tune(
    target: Target,
    arguments: list[str],
    orders: TuneOrders,
    output: Path | None,
    as_json: bool,
    host: dict[str, object],
    misplaced: Sequence[str] = (),
) -> int:
    """Tune a script and write its plan.

    Args:
        target: The script or module.
        arguments: The script's arguments.
        orders: The user's wishes.
        output: File of the plan; None for the script's own.
        as_json: Whether to print the plan as JSON instead of the report.
        host: Description of the host for the plan.
        misplaced: Words after the script that are options of this command.

    Returns:
        The exit code.

    Raises:
        ExplainedError: There is no plan.
    """
    path = output or Path(f"{target.stem}.plumb.json")
    forget_launches()
    launch = launch_of(HostFiles())
    if launch is not None and not launch.tunes:
        return take_part(Orders(target, tune=orders), arguments, launch)
    check_folder(path.parent, "the plan can't be written there; name another place with --output")
    if orders.cache_folder is not None:
        check_folder(
            Path(orders.cache_folder), "no samples can be stored there; name another --cache-dir", may_be_new=True
        )
    _check_memory(orders.memory_bytes)
    started = time.monotonic()
    kept = None if orders.study_url else Unfinished(target, arguments)
    orders = msgspec.structs.replace(orders, kept_file=str(kept.path) if kept else None)
    if launch is not None:
        orders = msgspec.structs.replace(orders, ranks=launch.ranks, launch_file=launch.ended_file)
    ordered = Orders(target, tune=orders)
    try:
        with signal_when_over(launch):
            story, outcome = run_in_session(ordered, arguments, as_json, kept)
        if not story.plans:
            raise nothing_done(ordered, story, outcome, misplaced)
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
        except (OutputError, BrokenPipeError):
            raise
        except Exception as error:
            failure_report.say(error, f"the plan is in {path} all the same", found)
    return 0


def _check_memory(allowed_bytes: int | None) -> None:
    """Raise CommandError if less memory is allowed than this process has, which has not imported torch yet."""
    used = script_bytes()
    if allowed_bytes is not None and used > allowed_bytes:
        raise CommandError(
            f"plumb alone uses {format_bytes(used)}, more than the {format_bytes(allowed_bytes)} that are allowed; "
            "raise --memory",
            2,
        )
