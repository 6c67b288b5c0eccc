"""A plan as one screen of a terminal: the answer first, then the why."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from plumb.plan import LoaderPlan, Plan, Trial
from plumb.profile.device_profile import DeviceProfile
from plumb.report.device import render as render_device
from plumb.report.words import arguments, bottleneck, cost, short
from plumb.trace.stored import from_node_link
from plumb.units import format_bytes, format_rate, format_seconds

_BAR_CELLS = 24
_FILES_SHOWN = 3
# Operators with a smaller share of a sample's time are left to `plumb trace`.
_SMALL = 0.03


def render(plan: Plan, plan_path: str) -> RenderableType:
    """The whole report; `plan_path` is where the plan was written, for the command that uses it."""
    parts: list[RenderableType] = []
    for loader in plan.loaders:
        parts += [Text(), *_loader(loader)]
    parts.append(Text())
    parts += _what_next(plan, plan_path)
    return Group(*parts)


def _loader(loader: LoaderPlan) -> Iterable[RenderableType]:
    yield Text.assemble(
        (loader.name, "bold"),
        (f"  {loader.site}, {loader.dataset}, batch {loader.samples_per_batch:.0f}", "dim"),
    )
    yield Padding(_before_and_after(loader), (0, 0, 0, 2))
    yield Padding(_why(loader), (0, 0, 0, 2))
    for note in loader.notes:
        yield Padding(Text(f"· {note}"), (0, 0, 0, 2))


def _before_and_after(loader: LoaderPlan) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    changed = loader.tuned.config != loader.baseline.config
    in_loop = loader.end_to_end
    sides = [("before", loader.baseline, in_loop.baseline if in_loop else None)]
    sides += [("after", loader.tuned, in_loop.tuned if in_loop else None)] if changed else []
    for label, side, loop in sides:
        low, high = side.interval
        table.add_row(
            Text(label if changed else "as it is", style="bold green" if label == "after" else ""),
            Text(format_rate(side.samples_per_second), style="bold"),
            Text(f"{low:,.0f} to {high:,.0f}", style="dim"),
            Text(f"your loop {format_rate(loop)}" if loop else ""),
            Text(short(side.config)),
        )
    return table


def _why(loader: LoaderPlan) -> RenderableType:
    lines: list[RenderableType] = []
    if loader.tuned.config != loader.baseline.config:
        gain = f"{loader.gain:.2f} times as fast"
        if in_loop := loader.end_to_end:
            gain += f"; your loop {in_loop.tuned / in_loop.baseline:.2f} times"
            if in_loop.tuned_waiting_share is not None and in_loop.baseline_waiting_share is not None:
                before, after = in_loop.baseline_waiting_share, in_loop.tuned_waiting_share
                gain += f", waiting for data {after:.0%} of its time instead of {before:.0%}"
        lines.append(Text(gain, style="green"))
    else:
        waits = loader.end_to_end.baseline_waiting_share if loader.end_to_end else None
        share = f" Your loop waits for data {waits:.1%} of its time." if waits is not None else ""
        lines.append(Text("Nothing to change." + share))
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
    if loader.end_to_end is not None:
        # What doesn't feed the training is told more briefly: one screen must hold it all.
        lines += [_bounds(loader), *_operators(loader), _trials(loader.trials)]
    return Group(*lines)


def _operators(loader: LoaderPlan) -> Iterable[RenderableType]:
    """What a sample goes through, without what is too small to matter."""
    if loader.graph is None:
        return
    pipeline = from_node_link(loader.graph)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading, justify in (("a sample goes through", "left"), ("", "left"), ("time", "right"), ("", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    whole = max(pipeline.sample_seconds, pipeline.attributed_seconds)
    for operator in pipeline.operators:
        share = operator.wall_seconds / whole
        if share >= _SMALL:
            kind = f"{operator.kind}, waits" if operator.waits else operator.kind
            row = (_bar(share, "cyan"), Text(format_seconds(operator.wall_seconds)), Text(kind, style="dim"))
            table.add_row(Text(operator.name), *row)
    yield table
    if loader.device is not None:
        yield render_device(DeviceProfile.from_dict(loader.device), pipeline)


def _bar(share: float, style: str) -> Text:
    filled = round(share * _BAR_CELLS)
    return Text("█" * filled + "░" * (_BAR_CELLS - filled), style=style)


def _bounds(loader: LoaderPlan) -> RenderableType:
    """What each resource allows, with how much of it the prediction uses."""
    table = Table.grid(padding=(0, 2))
    for resource, bound in sorted(loader.predicted.bounds.items(), key=lambda item: item[1]):
        share = loader.predicted.utilization.get(resource, 0.0)
        table.add_row(
            Text(resource),
            _bar(share, "cyan" if share < 0.999 else "yellow"),
            Text(f"allows {format_rate(bound)}", style="dim"),
        )
    return table


def _trials(trials: Iterable[Trial]) -> RenderableType:
    """What was tried, the best first; of several readings of one configuration the last."""
    last = {trial.config: trial for trial in trials}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", style="dim", pad_edge=False)
    for heading in ("tried", "samples/s", "interval", "model says", ""):
        table.add_column(heading, justify="left" if heading in ("tried", "") else "right")
    for trial in sorted(last.values(), key=lambda trial: -(trial.samples_per_second or 0.0)):
        table.add_row(
            short(trial.config),
            f"{trial.samples_per_second:,.0f}" if trial.samples_per_second else "–",
            "{:,.0f} to {:,.0f}".format(*trial.interval) if trial.interval else "",
            f"{trial.predicted_samples_per_second:,.0f}" if trial.predicted_samples_per_second else "",
            trial.outcome,
        )
    return table


def _what_next(plan: Plan, plan_path: str) -> Iterable[RenderableType]:
    changed = [loader for loader in plan.loaders if loader.tuned.config != loader.baseline.config]
    if changed:
        yield Text.assemble("Use it:  ", (f"plumb run {plan.script}", "bold"), f"   (the plan is in {plan_path})")
        for loader in changed:
            if loader.tuned.config.needs_runtime:
                continue
            yield Text(f"or write  DataLoader(..., {arguments(loader.tuned.config)})  at {loader.site}")
    if plan.written_files:
        yield Text(f"The script wrote, while it was tuned: {_some(plan.written_files)}", style="yellow")
    for loader in plan.loaders:
        if loader.cost is not None:
            yield Text(cost(loader, loader.cost), style="dim")
    yield Text(
        f"{format_seconds(plan.startup_seconds)} until your script's loop began, "
        f"{format_seconds(plan.tuning_seconds)} of tuning.",
        style="dim",
    )


def _some(files: Sequence[str]) -> str:
    """The first few files, as they are called from here, and how many there are besides."""
    shown = ", ".join(os.path.relpath(file) for file in files[:_FILES_SHOWN])
    more = len(files) - _FILES_SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown


def print_report(plan: Plan, plan_path: str, console: Console) -> None:
    """Prints the report, in plain text where `console` is no terminal."""
    console.print(render(plan, plan_path))
