"""Terminal report of a plan on one screen: the answer first, then the reasons."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from plumb.core.device_profile import DeviceProfile
from plumb.core.plan import LoaderResult, Plan
from plumb.core.units import format_bytes, format_rate, format_seconds
from plumb.report.answer import answer, budget_option, is_changed, is_offered, waiting_share
from plumb.report.framework_settings import framework_setting
from plumb.report.output import PLAIN_WIDTH, as_plain_text
from plumb.report.terminal_device import render as render_device
from plumb.report.tried import tried
from plumb.report.wording import (
    RESOURCES,
    arguments,
    bottleneck,
    by_the_clock,
    capital,
    command,
    cost,
    how_to_use,
    last_of_each,
    loop_gain,
    plain_gain,
    short,
    starts_count,
    whole,
    written_config,
)
from plumb.tracing.stored_pipeline import from_node_link

# Length of bars on terminals of at least so many columns; on narrower ones there are none.
_BAR_CELLS = {80: 24, 60: 10}
_FILES_SHOWN = 3
_TRIALS_SHOWN = 5
# Smallest share of a sample's time for which an operator is shown; `plumb trace` shows all.
_SMALL = 0.03


def render(plan: Plan, plan_path: str, width: int = PLAIN_WIDTH) -> RenderableType:
    """Return the whole report for a terminal of `width` columns; `plan_path` is the plan's file, for the commands."""
    bar_cells = next((cells for columns, cells in _BAR_CELLS.items() if width >= columns), 0)
    parts: list[RenderableType] = [Text(), *_answers(plan), Text(), _what_next(plan, plan_path)]
    for loader in plan.loaders:
        parts += [Text(), *_loader(loader, bar_cells)]
    parts += [Text(), *_what_it_took(plan)]
    return Group(*parts)


def _answers(plan: Plan) -> Iterable[RenderableType]:
    for loader in plan.loaders:
        told = answer(loader, budget_option(plan))
        style = "bold green" if is_offered(loader) else "yellow" if loader.undecided else "bold"
        name = f"{loader.name}: " if len(plan.loaders) > 1 else ""
        yield Text.assemble(name, (told if name else capital(told), style))


def _loader(loader: LoaderResult, bar_cells: int) -> Iterable[RenderableType]:
    yield Text.assemble(
        (loader.name, "bold"),
        (f"  {loader.site}, {loader.dataset}, batch {loader.samples_per_batch:.0f}", "dim"),
    )
    blocks: list[RenderableType] = [Group(_before_and_after(loader), _why(loader))]
    if loader.end_to_end is not None or loader.step_samples_per_second is not None:
        # Other loaders than those of the training loop get fewer blocks, because all has to fit on one screen.
        blocks += [*_shares(loader, bar_cells), _bounds(loader, bar_cells), *_operators(loader, bar_cells)]
    blocks += [_trials(loader)] if loader.trials else []
    notes = [*loader.notes, *_not_offered(loader)]
    blocks += [Group(*(Text(f"· {note}") for note in notes))] if notes else []
    for place, block in enumerate(blocks):
        yield Padding(block, (int(place > 0), 0, 0, 2))


def _not_offered(loader: LoaderResult) -> Iterable[str]:
    """Yield the first reason that concerns the whole sample, not one of many places; it costs the most."""
    for reason in loader.rewrites.reasons:
        if not reason.lower().startswith(("nothing is stored after ", "no cut after ")):
            yield reason.rstrip(".")
            return


def _before_and_after(loader: LoaderResult) -> RenderableType:
    table = _table()
    changed, in_loop = is_changed(loader), loader.end_to_end
    sides = [("before", loader.baseline)] + ([("after", loader.tuned)] if changed else [])
    for label, side in sides:
        rate, (low, high), alone = side.samples_per_second, side.interval, ""
        if in_loop is not None:
            # The loop decides: the better loader may be slower alone, because it leaves more of the cores to the step.
            alone = f", the loader alone {format_rate(rate)}"
            rate = in_loop.tuned if label == "after" else in_loop.baseline
            low, high = in_loop.tuned_interval if label == "after" else in_loop.baseline_interval
        table.add_row(
            Text(label if changed else "as it is", style="bold" if label == "after" else ""),
            Text.assemble(
                (format_rate(rate), "bold"), (f" ({low:,.0f} to {high:,.0f}){alone}: ", "dim"), short(side.config)
            ),
        )
    return table


def _table(*headings: tuple[str, Literal["left", "right"]], gap: int = 2) -> Table:
    """Return a table without lines that breaks words rather than cut them; without headings, of a label and a text."""
    has_headings = any(heading for heading, _ in headings)
    table = Table(box=None, padding=(0, gap, 0, 0), header_style="dim", pad_edge=False, show_header=has_headings)
    for heading, justify in headings:
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=justify == "right")
    if not headings:
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
    return table


def _why(loader: LoaderResult) -> RenderableType:
    lines: list[RenderableType] = []
    if is_changed(loader):
        gain = f"{loader.gain:.2f} times as fast"
        if in_loop := loader.end_to_end:
            was_alone = any(trial.config == loader.tuned.config for trial in loader.trials)
            alone = f"; the loader alone {gain}" if was_alone and loader.gain > 1 else ""
            gain = f"Your loop: {loop_gain(in_loop)}{alone}"
            if in_loop.tuned_waiting_share is not None and in_loop.baseline_waiting_share is not None:
                before, after = in_loop.baseline_waiting_share, in_loop.tuned_waiting_share
                gain += f"; it waits for data {after:.0%} of its time instead of {before:.0%}"
        told = by_the_clock(loader)
        if starts_count(loader):
            # What users see is what the clock shows over whole epochs.
            told.insert(1, f"While an epoch runs: {gain}")
        else:
            told.insert(0, gain)
        lines += [Text(line) for line in told]
    elif loader.undecided and (waits := waiting_share(loader)) is not None:
        lines.append(Text(f"Your loop waits for data {waits:.1%} of its time."))
    lines.append(Text(bottleneck(loader)))
    if loader.sample is not None:
        sample = loader.sample
        lines.append(
            Text(
                f"A sample takes {format_seconds(sample.cpu_seconds)} of CPU and {format_seconds(sample.wait_seconds)} "
                f"of waiting, and is {format_bytes(sample.output_bytes)} of its batch.",
                style="dim",
            )
        )
    return Group(*lines)


_STEP_PARTS = {
    "step": ("step", "green"),
    "ranks": ("other ranks", "cyan"),
    "compute": ("computing samples", "blue"),
    "read": ("reading", "yellow"),
    "transfer": ("taking batches over", "magenta"),
}


def _shares(loader: LoaderResult, bar_cells: int) -> Iterable[RenderableType]:
    """Yield bars of the parts of a training step's time, before and after, on one scale; nothing if unknown."""
    loop = loader.end_to_end
    if loop is None or loop.baseline_shares is None or loop.tuned_shares is None:
        return
    sides = [("before", loop.baseline_shares, loader.samples_per_batch / loop.baseline)]
    if is_changed(loader):
        sides.append(("after", loop.tuned_shares, loader.samples_per_batch / loop.tuned))
    longest = max(seconds for _, _, seconds in sides)
    table = _table(("a step", "left"), ("takes", "right"), ("", "left"), ("of which", "left"))
    for name, shares, seconds in sides:
        parts = {part: getattr(shares, part) for part in _STEP_PARTS}
        cells = whole({part: share * seconds / longest * bar_cells for part, share in parts.items()})
        bar = Text.assemble(*(("█" * count, _STEP_PARTS[part][1]) for part, count in cells.items()))
        told = Text(", ").join(
            Text(f"{percents}% {_STEP_PARTS[part][0]}", style=_STEP_PARTS[part][1])
            for part, percents in whole({part: 100 * share for part, share in parts.items()}).items()
            if percents
        )
        table.add_row(name if len(sides) > 1 else "as it is", format_seconds(seconds), bar, told)
    yield table


def _operators(loader: LoaderResult, bar_cells: int) -> Iterable[RenderableType]:
    """Yield a table of a sample's operators without the small ones, and their times on a device if measured."""
    if loader.graph is None:
        return
    pipeline = from_node_link(loader.graph)
    table = _table(("a sample goes through", "left"), ("", "left"), ("time", "right"), ("", "left"))
    whole_seconds = max(pipeline.sample_seconds, pipeline.attributed_seconds)
    for operator in pipeline.operators:
        share = operator.wall_seconds / whole_seconds
        if share >= _SMALL:
            kind = f"{operator.kind}, waits" if operator.waits else operator.kind
            row = (_bar(share, "cyan", bar_cells), Text(format_seconds(operator.wall_seconds)), Text(kind, style="dim"))
            table.add_row(Text(operator.name), *row)
    yield table
    device = DeviceProfile.from_dict(loader.device) if loader.device is not None else None
    if device is not None and device.device is not None:
        yield render_device(device, pipeline)


def _bar(share: float, style: str, cells: int) -> Text:
    filled = round(share * cells)
    return Text("█" * filled + "░" * (cells - filled), style=style)


def _bounds(loader: LoaderResult, bar_cells: int) -> RenderableType:
    """Return a table of what each resource allows, and how much of it the prediction uses."""
    table = _table(("", "left"), ("", "left"), ("", "left"))
    for resource, bound in sorted(loader.predicted.bounds.items(), key=lambda item: item[1]):
        share = loader.predicted.utilization.get(resource, 0.0)
        table.add_row(
            Text(RESOURCES.get(resource, resource).removeprefix("the ")),
            _bar(share, "cyan" if share < 0.999 else "yellow", bar_cells),
            Text(f"allows {format_rate(bound)}", style="dim"),
        )
    return table


def _trials(loader: LoaderResult) -> RenderableType:
    """Return a table of the trials, the best first, with the last result of each configuration."""
    rows = tried(loader, _TRIALS_SHOWN)
    table = _table(("samples/s", "right"), ("what was tried, on the loader alone", "left"))
    for row in rows:
        trial = row.trial
        bounds = "; {:,.0f} to {:,.0f}".format(*trial.interval) if trial.interval else ""
        said = f"; predicted {trial.predicted_samples_per_second:,.0f}" if trial.predicted_samples_per_second else ""
        table.add_row(
            f"{trial.samples_per_second:,.0f}" if trial.samples_per_second else "–",
            Text.assemble(row.words, (f"\n{row.remark}{bounds}{said}", "dim")),
            style="bold" if row.is_chosen else "",
        )
    more = len(last_of_each(loader.trials)) - len(rows)
    return Group(table, Text(f"and {more:,} more", style="dim")) if more else table


def _what_next(plan: Plan, plan_path: str) -> RenderableType:
    table = _table(gap=1)
    offered = [loader for loader in plan.loaders if is_offered(loader)]
    if offered:
        where = f"   (the plan is in {plan_path})" if plan.script else ""
        table.add_row("Use it:", Text.assemble((how_to_use(plan, plan_path), "bold"), where))
        for loader in offered:
            setting = framework_setting(loader)
            if setting is not None:
                table.add_row("or set:", Text(f"{setting}  for {loader.name}, which {loader.library} makes"))
            elif (config := written_config(loader)) is not None:
                table.add_row("or write:", Text(f"DataLoader(..., {arguments(config)})  at {loader.site}"))
                if plain := plain_gain(loader):
                    table.add_row("", Text(plain, style="dim"))
        if plan.script and any(written_config(loader) is not None and not loader.library for loader in offered):
            table.add_row("or let:", Text.assemble((command("apply", plan, plan_path), "bold"), "  write it for you"))
    elif plan.script and any(is_changed(loader) for loader in plan.loaders):
        table.add_row("Again:", Text(command("tune", plan, ""), style="bold"))
    if plan_path:
        shown = shlex.join(["plumb", "report", plan_path, "--html", "report.html"])
        table.add_row("See all:", Text(shown, style="bold"))
    return table


def _what_it_took(plan: Plan) -> Iterable[RenderableType]:
    yield from (Text(line, style="yellow") for line in _files(plan))
    for loader in plan.loaders:
        if loader.cost is not None:
            yield Text(cost(loader, loader.cost, is_offered(loader)), style="dim")
    if plan.script:
        yield Text(
            f"{format_seconds(plan.startup_seconds)} until your script's loop began, "
            f"{format_seconds(plan.tuning_seconds)} of tuning.",
            style="dim",
        )


def _files(plan: Plan) -> Sequence[str]:
    """Return sentences on the script's files; plans of an earlier plumb list only the written files."""
    if plan.files is not None:
        return plan.files.sentences(Path.cwd(), _FILES_SHOWN)
    shown = ", ".join(os.path.relpath(file) for file in plan.written_files[:_FILES_SHOWN])
    more = len(plan.written_files) - _FILES_SHOWN
    files = f"{shown} and {more:,} more" if more > 0 else shown
    return [f"The script wrote, while it was tuned: {files}"] if files else []


def print_report(plan: Plan, plan_path: str, console: Console) -> None:
    """Print the report, as plain text if `console` is no terminal."""
    console.print(render(plan, plan_path, console.width))


def as_text(plan: Plan) -> str:
    """Return the report as plain text."""
    return as_plain_text(render(plan, ""))
