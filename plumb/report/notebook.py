"""Notebook output: a line while a loader is tuned, and small tables for plans and pipelines."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from types import TracebackType
from typing import Any

from plumb.core.plan import LoaderResult
from plumb.core.units import format_rate, format_seconds
from plumb.report.answer import answer, is_changed, is_offered
from plumb.report.output import console
from plumb.report.progress import Display
from plumb.report.wording import (
    arguments,
    bottleneck,
    by_the_clock,
    capital,
    plain_gain,
    short,
    written_config,
)
from plumb.tracing.pipeline import Operator, Pipeline

# Colours are inherited from the page, so that the text is legible on a dark one too.
_STYLE = "font-family:system-ui,sans-serif;font-size:13px;line-height:1.5"
_INHERITED = "color:inherit;font-size:inherit;background:none;border:0"
_CELL = f"text-align:left;padding:1px 14px 1px 0;{_INHERITED}"
_BAR_PIXELS = 120


class NotebookLine:
    """One line below the running cell that disappears at the end."""

    def __init__(self, first: str) -> None:
        from IPython.display import HTML, display  # type: ignore[import-not-found, unused-ignore]

        self._html = HTML
        self._handle: Any = display(HTML(_line(first)), display_id=True)

    def __enter__(self) -> NotebookLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.update(self._html(""))

    def phase(self, text: str) -> None:
        """Show `text` as the present activity."""
        self._handle.update(self._html(_line(text)))


def progress_line(first: str) -> Display | NotebookLine:
    """Return a line that shows a tuning's progress in a notebook or on a terminal, and is silent elsewhere."""
    output = console(stderr=True)
    if output.is_jupyter:
        return NotebookLine(first)
    return Display(output, quiet=not output.is_terminal, first=first)


def plan_html(loader: LoaderResult, explained: str) -> str:
    """Return a plan as HTML: before and after, the bottleneck, the arguments, and the whole report to unfold."""
    changed, offered = is_changed(loader), is_offered(loader)
    sides = [("before" if changed else "as it is", loader.baseline)]
    sides += [("after", loader.tuned)] if changed else []
    measured = [(side.samples_per_second, side.interval) for _, side in sides]
    if loop := loader.end_to_end:
        measured = [(loop.baseline, loop.baseline_interval), (loop.tuned, loop.tuned_interval)]
    rows = [
        (label, f"<b>{escape(format_rate(rate))}</b>", _bounds(interval), escape(short(side.config)))
        for (label, side), (rate, interval) in zip(sides, measured, strict=False)
    ]
    told = answer(loader, "budget=")
    bold = f"<b>{escape(capital(told))}.</b>"
    bold += "".join(f" {escape(line)}" for line in by_the_clock(loader)) if changed else ""
    why = escape(bottleneck(loader))
    config = written_config(loader)
    ways = ["plan.loader(dataset)"] if loader.config.needs_runtime else []
    ways += [f"DataLoader(..., {arguments(config)})"] if config is not None else []
    use = "".join(f"<div><code>{escape(way)}</code></div>" for way in ways) if offered else ""
    use += f"<div>{escape(plain)}</div>" if offered and (plain := plain_gain(loader)) else ""
    batch = f"batch {loader.samples_per_batch:.0f}"
    return _box(
        f"<div><b>{escape(loader.name)}</b> {_dim(f'{loader.site}, {loader.dataset}, {batch}')}</div>"
        f"<div>{bold}</div>{use}{_table((), rows)}<div>{why}</div>"
        f"<details><summary>The whole report</summary><pre>{escape(explained)}</pre></details>"
    )


def pipeline_html(pipeline: Pipeline) -> str:
    """Return a pipeline as HTML: its operators in order, their inputs, and bars of their shares of a sample's time."""
    whole = max(pipeline.sample_seconds, pipeline.attributed_seconds) or 1.0
    rows = [
        (
            f"<b>{escape(operator.name)}</b>",
            escape(", ".join(pipeline.graph.predecessors(operator.id))),
            escape(format_seconds(operator.wall_seconds)),
            _bar(operator.wall_seconds / whole),
            escape(_remarks(operator)),
        )
        for operator in pipeline.operators
    ]
    rest = pipeline.unattributed_seconds
    rows.append((_dim("unattributed"), "", escape(format_seconds(rest)), _bar(rest / whole), ""))
    batch = f", batches of {pipeline.batch_size}" if pipeline.batch_size else ""
    about = f"{format_seconds(pipeline.sample_seconds)} per sample ({pipeline.samples} samples traced{batch})"
    return _box(
        f"<div><b>{escape(pipeline.dataset)}</b> {_dim(about)}</div>"
        + _table(("a sample goes through", "from", "time", "share", "what it does"), rows)
    )


def _remarks(operator: Operator) -> str:
    remarks = [operator.kind, *(["random"] if operator.random else []), *(["waits"] if operator.waits else [])]
    return ", ".join(remarks)


def _bounds(interval: tuple[float, float]) -> str:
    return _dim("{:,.0f} to {:,.0f}".format(*interval))


def _bar(share: float) -> str:
    """Return a bar as long as a share from 0 to 1, in a colour that is visible on light and dark pages."""
    pixels = round(min(max(share, 0.0), 1.0) * _BAR_PIXELS)
    return (
        f'<span style="display:inline-block;height:9px;width:{pixels}px;background:#3b82c4;border-radius:2px"></span> '
        f"{share:.0%}"
    )


def _dim(text: str) -> str:
    return f'<span style="opacity:.65">{escape(text)}</span>'


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table whose cells are HTML already."""
    head = "".join(f'<th style="{_CELL};font-weight:normal;opacity:.65">{escape(each)}</th>' for each in headings)
    body = "".join("<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) + "</tr>" for row in rows)
    rows_of_all = f"<tr>{head}</tr>{body}" if head else body
    return f'<table style="border-collapse:collapse;margin:4px 0;{_INHERITED}">{rows_of_all}</table>'


def _box(inside: str) -> str:
    return f'<div style="{_STYLE}">{inside}</div>'


def _line(text: str) -> str:
    return _box(f"<span>plumb: {escape(text)}</span>")
