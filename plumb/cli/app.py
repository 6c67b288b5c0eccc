"""The command `plumb`: each command parses its arguments and calls one function."""

from __future__ import annotations

import math
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from plumb.cli.usage import Group, misplaced_options
from plumb.core.errors import OutputError
from plumb.core.thresholds import LONGEST_BUDGET_SECONDS
from plumb.host import standard_streams

_SCRIPT: dict[str, Any] = {"ignore_unknown_options": True, "allow_interspersed_args": False}


# No host or loop has more, so that a larger number is a mistake.
_MOST_CPUS, _MOST_RATE = 1e5, 1e12


class _Number(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is not in the range {self._describe_range()}.", param, ctx)
        return number


_SECONDS = _Number(min=1, max=LONGEST_BUDGET_SECONDS)
_CPUS = _Number(min=0, min_open=True, max=_MOST_CPUS)
_RATE = _Number(min=0, min_open=True, max=_MOST_RATE)


class _Size(click.ParamType):  # type: ignore[type-arg]
    name = "SIZE"

    def __init__(self, least: int = 0) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from plumb.core.units import parse_size

        try:
            size = parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if size < self._least:
            self.fail(f"{value} is not in the range x>={self._least}.", param, ctx)
        return size


class _Share(click.ParamType):  # type: ignore[type-arg]
    name = "RATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from plumb.runtime.checks.check_rate import parse_rate

        try:
            return parse_rate(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _log_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Turn the log on, in this process and in the script's."""
    if value:
        from plumb.core import log

        os.environ[log.VARIABLE] = "debug"
        log.configure()


_verbose = click.option(
    "--verbose",
    is_flag=True,
    expose_value=False,
    callback=_log_all,
    help="Print on standard error what plumb does and why, for its makers.",
)


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    examples=("plumb tune train.py --epochs 3", "plumb run train.py --epochs 3"),
)
@click.version_option(package_name="plumb-tune", prog_name="plumb")
def cli() -> None:
    """Tunes the input pipeline of an unmodified PyTorch training script."""


@cli.command(
    context_settings=_SCRIPT,
    examples=("plumb tune train.py --epochs 3", "plumb tune --budget 120 --cache-dir /data/cache -m project.train"),
)
@click.option("--budget", type=_SECONDS, default=60.0, show_default=True, help="Seconds of tuning.")
@click.option("--cpus", type=_CPUS, help="Use no more CPUs than this.")
@click.option("--memory", type=_Size(), help="Use no more memory than this, for example 8GiB.")
@click.option("--max-workers", type=click.IntRange(min=0), help="Start no more workers than this for a loader.")
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    help="Read no more samples than this at the same time for a loader.",
)
@click.option(
    "--cache-dir", type=click.Path(file_okay=False, path_type=Path), help="Samples may be stored in this folder."
)
@click.option("--cache-memory", type=_Size(), help="Store no more than this of samples in memory, for example 4GiB.")
@click.option("--no-cache", is_flag=True, help="Store no samples anywhere.")
@click.option("--plain", is_flag=True, help="Tune torch's own arguments alone, which need no plumb afterwards.")
@click.option("--allow-reorder", is_flag=True, help="Batches may come in another order (in_order=False).")
@click.option("--on-device", is_flag=True, help="Batches may arrive on the GPU, where their last operators run then.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the search.")
@click.option(
    "--study", metavar="URL", help="Keep what was tried in this Optuna storage, for example sqlite:///tuning.db."
)
@click.option("--clean", is_flag=True, help="Remove the files that SCRIPT makes while it is tuned.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the plan.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan, and nothing else, on standard output.")
@_verbose
@click.argument("script", nargs=-1, type=click.UNPROCESSED, metavar="SCRIPT [ARGS]...")
def tune(
    script: tuple[str, ...],
    budget: float,
    cpus: float | None,
    memory: int | None,
    max_workers: int | None,
    max_connections: int | None,
    cache_dir: Path | None,
    cache_memory: int | None,
    no_cache: bool,
    plain: bool,
    allow_reorder: bool,
    on_device: bool,
    seed: int,
    study: str | None,
    clean: bool,
    output: Path | None,
    as_json: bool,
) -> int:
    """Tune SCRIPT's data loaders and write SCRIPT's plan."""
    from plumb.cli import tune_command as command
    from plumb.cli.arguments import parse_study, parse_target
    from plumb.host import Limits, Machine, describe
    from plumb.tuning.child_orders import TuneOrders

    target, arguments = parse_target(list(script))
    if no_cache and (cache_dir or cache_memory):
        raise click.UsageError("--no-cache goes with neither --cache-dir nor --cache-memory")
    if plain and (cache_dir or cache_memory or on_device):
        raise click.UsageError(
            "--plain goes with none of --cache-dir, --cache-memory and --on-device: torch has no arguments for these"
        )
    orders = TuneOrders(
        budget_seconds=budget,
        seed=seed,
        may_reorder=allow_reorder,
        on_device=on_device,
        cpus=cpus,
        memory_bytes=memory,
        max_workers=max_workers,
        max_connections=max_connections,
        cache_memory_bytes=0 if no_cache else cache_memory,
        cache_folder=str(cache_dir.absolute()) if cache_dir else None,
        study_url=parse_study(study),
        clean=clean,
        plain=plain,
    )
    host = describe(Limits.detect(), Machine.detect())
    return command.tune(target, arguments, orders, output, as_json, host, _misplaced(arguments))


@cli.command(
    context_settings=_SCRIPT,
    examples=("plumb trace train.py", "plumb trace --dot train.py --data images > graph.dot"),
)
@click.option("--budget", type=_SECONDS, default=60.0, show_default=True, help="Seconds to wait for.")
@click.option("--json", "form", flag_value="json", help="Print the graph as networkx.node_link_data.")
@click.option("--dot", "form", flag_value="dot", help="Print the graph in Graphviz's language.")
@_verbose
@click.argument("script", nargs=-1, type=click.UNPROCESSED, metavar="SCRIPT [ARGS]...")
def trace(script: tuple[str, ...], budget: float, form: str | None) -> int:
    """Show what a sample of SCRIPT goes through, and what each operator costs."""
    from plumb.cli import trace_command as command
    from plumb.cli.arguments import parse_target
    from plumb.tuning.child_orders import TuneOrders

    target, arguments = parse_target(list(script))
    orders = TuneOrders(budget, trace_only=True)
    return command.trace(target, arguments, orders, form or "tree", _misplaced(arguments))


@cli.command(
    context_settings=_SCRIPT,
    examples=("plumb run train.py --epochs 90", "plumb run --plan plans/train.plumb.json train.py"),
)
@click.option("--plan", type=click.Path(dir_okay=False, path_type=Path), help="The plan; default: SCRIPT's own.")
@click.option(
    "--check", type=_Share(), help="Share of batches to make a second time, plainly, and compare; default: a few."
)
@_verbose
@click.argument("script", nargs=-1, type=click.UNPROCESSED, metavar="SCRIPT [ARGS]...")
def run(script: tuple[str, ...], plan: Path | None, check: float | None) -> None:
    """Run SCRIPT with its plan."""
    from plumb.cli import run_command as command
    from plumb.cli.arguments import parse_target

    target, arguments = parse_target(list(script))
    command.run(target, arguments, plan, check)


@cli.command(examples=("plumb apply train.py", "plumb apply --write train.py"))
@click.option("--plan", type=click.Path(dir_okay=False, path_type=Path), help="The plan; default: SCRIPT's own.")
@click.option("--write", is_flag=True, help="Change the source instead of showing what to change.")
@click.option("-m", "is_module", is_flag=True, help="SCRIPT is a module's name.")
@click.argument("script", metavar="SCRIPT")
def apply(script: str, is_module: bool, plan: Path | None, write: bool) -> int:
    """Show how SCRIPT's plan is written as DataLoader arguments, as a patch of the source."""
    from plumb.cli import apply_command as command
    from plumb.cli.arguments import parse_target

    target, _ = parse_target(["-m", script] if is_module else [script])
    return command.apply(target, plan, write)


@cli.command(examples=("plumb report train.plumb.json", "plumb report --html report.html train.plumb.json"))
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write one page for a browser.")
@click.option(
    "--perfetto",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write operators and simulated workers as a trace for ui.perfetto.dev.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.argument("plan", type=click.Path(dir_okay=False, path_type=Path))
def report(plan: Path, html: Path | None, perfetto: Path | None, as_json: bool) -> None:
    """Show what a plan says."""
    from plumb.cli import report_command as command

    command.report(plan, html, perfetto, as_json)


@cli.command(
    examples=(
        "plumb predict --cpus 16 train.plumb.json",
        "plumb predict --memory 64GiB --step-rate 2000 train.plumb.json",
    )
)
@click.option("--cpus", type=_CPUS, help="Assume so many CPUs.")
@click.option("--memory", type=_Size(least=1), help="Assume so much memory, for example 64GiB.")
@click.option("--step-rate", type=_RATE, help="Assume a step of so many samples/s.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@click.argument("plan", type=click.Path(dir_okay=False, path_type=Path))
def predict(plan: Path, cpus: float | None, memory: int | None, step_rate: float | None, as_json: bool) -> int:
    """Say what a plan's loaders would do on another host, and what to buy."""
    from plumb.cli import predict_command as command
    from plumb.model.whatif import AssumedHost

    return command.predict(plan, AssumedHost(cpus, memory, step_rate), as_json)


@cli.command(examples=("plumb doctor", "plumb doctor > host.txt"))
def doctor() -> None:
    """Show what this host allows, and what to change."""
    from plumb.host import Limits, Machine
    from plumb.report.doctor import print_doctor
    from plumb.report.output import console

    print_doctor(Limits.detect(), Machine.detect(), console())


@cli.command(name="help", examples=("plumb help prefetch", "plumb help waits for data"))
@click.argument("words", nargs=-1)
@click.pass_context
def explain(context: click.Context, words: tuple[str, ...]) -> None:
    """Explain words of a report, or show how a command is used."""
    command = cli.get_command(context, words[0]) if len(words) == 1 else None
    if command is not None:
        click.echo(command.get_help(click.Context(command, context.parent, words[0])))
        return
    from plumb.cli.help_command import explain as explain_words

    explain_words(list(words))


@cli.group(examples=("plumb cache list", "plumb cache clear"))
def cache() -> None:
    """Show and remove the sample stores on this host."""


@cache.command(name="list", examples=("plumb cache list", "plumb cache list > stores.txt"))
def list_stores() -> None:
    """Show your stores in shared memory and in all cache folders that you have used."""
    from plumb.cli import cache_command as command

    command.list_stores()


@cache.command(name="clear", examples=("plumb cache clear", "plumb cache clear /data/cache"))
@click.argument("folder", required=False, type=click.Path(file_okay=False, exists=True, path_type=Path))
def clear_stores(folder: Path | None) -> None:
    """Remove your stores that no process uses: all of them, or those in the cache folder FOLDER."""
    from plumb.cli import cache_command as command

    command.clear_stores(folder)


def _misplaced(arguments: list[str]) -> list[str]:
    """Return the options of the present command that were written after the script."""
    return misplaced_options(click.get_current_context().command, arguments)


def main() -> NoReturn:
    """Run the command and exit with its code."""
    from plumb.host.signals import SignalledError

    code: Any = 1
    # The script of `plumb run` must find its standard input as it was, open or closed.
    standard_streams.open_missing((1, 2))
    standard_streams.print_what_can_be_printed()
    standard_streams.name_write_errors()
    try:
        code = cli.main(standalone_mode=False)
        standard_streams.finish_output()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SignalledError as error:
        # Ends as without a handler, so that the parent process sees which signal ended this one.
        signal.raise_signal(error.number)
    except (click.Abort, KeyboardInterrupt):
        click.echo("plumb: stopped. Nothing was written.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader has all that it wanted.
        standard_streams.discard_output()
        sys.exit(1)
    except Exception as error:
        from plumb.cli.error_lines import line_and_code

        if isinstance(error, OutputError):
            standard_streams.discard_output()

        line, code = line_and_code(error)
        if line is not None:
            click.echo(line, err=True)
        sys.exit(code)
    sys.exit(code or 0)
