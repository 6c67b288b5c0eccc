"""Charts of the HTML report: rows of bars in HTML, whose text keeps its size at any width, and plots in SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import takewhile

from plumb.core.plan import LoaderResult, StepShares
from plumb.core.units import format_rate, format_seconds
from plumb.model.simulator import MAIN, STEP
from plumb.model.timeline import Timeline
from plumb.report.html.markup import Content, Markup, tag
from plumb.report.tried import TriedRow, tried
from plumb.report.wording import RESOURCES, SHARES, capital, last_of_each, percent, short, whole

# Bounds above this multiple of the present rate are cut off, because their true length shows nothing.
_SCALE_OF_BOUNDS = 4.0
_PLOT, _PLOT_LEFT, _PLOT_BOTTOM, _PLOT_MARGIN = 340.0, 52.0, 40.0, 10.0
# A prediction within this share of the measurement is near; axes extend beyond the outermost points by this factor.
_NEAR, _ROOM = 0.1, 1.4
_ROW, _ROW_GAP, _TIME_UNITS = 14.0, 5.0, 1000.0
_ROWS_SHOWN = 16
_TICKS = 6
# Smallest share of a bar for which a piece has room for its text.
_ROOM_FOR_WORDS = 0.08


def bounds(loader: LoaderResult, before: float | None, now: float) -> Markup:
    """Return bars of what each resource allows in samples per second, with the measured rates marked on them.

    Args:
        loader: Plan of a loader.
        before: Rate before the change; None if nothing changed.
        now: Rate with the chosen configuration.

    """
    predicted = loader.predicted
    ascending = sorted(predicted.bounds.items(), key=lambda item: item[1])
    scale = min(max([now, *predicted.bounds.values()]) * 1.02, _SCALE_OF_BOUNDS * now)
    marks = [_mark("now", now / scale)] + ([_mark("before", before / scale)] if before is not None else [])
    rows = []
    for resource, bound in ascending:
        kind = "bar binding" if resource == predicted.bottleneck else "bar"
        kind += " beyond" if bound > scale else ""
        bar = tag("div", class_=kind, style=f"width:{_percent(min(1.0, bound / scale))}")
        rows.append(_row(capital(RESOURCES.get(resource, resource)), (bar, *marks), format_rate(bound)))
    legend = [_key("line now", f"measured now, {format_rate(now)}")]
    if before is not None:
        legend.append(_key("line before", f"before, {format_rate(before)}"))
    return tag("div", tag("div", *rows, class_="rows bounds"), tag("div", *legend, class_="legend"))


def shares(sides: Sequence[tuple[str, StepShares, float]]) -> Markup:
    """Return bars of the parts of a step's time; each side is a name, the shares, and a step's seconds."""
    longest = max(seconds for _, _, seconds in sides)
    rows = []
    for name, parts, seconds in sides:
        width = seconds / longest
        percents = whole({part: 100 * float(getattr(parts, part)) for part in SHARES})
        pieces = [
            tag(
                "div",
                tag("span", percent(percents[part] / 100)) if share * width >= _ROOM_FOR_WORDS else None,
                class_=f"piece {part}",
                style=f"width:{_percent(share * width)}",
                title=f"{SHARES[part]}: {percent(share)}, {format_seconds(share * seconds)}",
            )
            for part in SHARES
            if (share := float(getattr(parts, part))) > 0
        ]
        told = ", ".join(f"{percent(percents[part] / 100)} {SHARES[part]}" for part in SHARES if percents[part])
        label = tag("div", name, tag("small", told, class_="parts"))
        rows.append(_row(label, pieces, format_seconds(seconds)))
    is_shared = any(parts.ranks for _, parts, _ in sides)
    legend = [_key(f"piece {part}", words) for part, words in SHARES.items() if part != "ranks" or is_shared]
    return tag("div", tag("div", *rows, class_="rows shares"), tag("div", *legend, class_="legend"))


def trials(loader: LoaderResult) -> Markup:
    """Return rows for the trials: each configuration with its rate, its interval and the model's prediction."""
    rows_tried = tried(loader)
    ends = [
        end
        for trial in (row.trial for row in rows_tried)
        for end in (*(trial.interval or ()), trial.predicted_samples_per_second or 0.0)
    ]
    scale = max([*ends, loader.baseline.samples_per_second]) * 1.03
    baseline = _mark("before", loader.baseline.samples_per_second / scale)
    rows = [_trial(row, scale, baseline) for row in rows_tried]
    legend = [
        _key("whisker", "95 % interval"),
        _key("dot", "measured"),
        _key("guess", "the model, beforehand"),
        _key("line before", "your configuration"),
    ]
    return tag("div", tag("div", *rows, class_="rows trials"), tag("div", *legend, class_="legend"))


def _trial(row: TriedRow, scale: float, baseline: Markup) -> Markup:
    trial = row.trial
    drawn: list[Content] = [baseline]
    if trial.interval is not None:
        low, high = (end / scale for end in trial.interval)
        drawn.append(tag("div", class_="whisker", style=f"left:{_percent(low)};width:{_percent(high - low)}"))
    if trial.predicted_samples_per_second:
        drawn.append(tag("div", class_="guess", style=f"left:{_percent(trial.predicted_samples_per_second / scale)}"))
    if trial.samples_per_second:
        drawn.append(tag("div", class_="dot", style=f"left:{_percent(trial.samples_per_second / scale)}"))
    role = _role(row.is_chosen, row.is_own)
    badge = tag("em", {"winner": "chosen", "own": "yours"}[role], class_="badge") if role else None
    # The badge says whose row it is.
    remark = row.remark.removeprefix("chosen: ").removeprefix("yours: ")
    name = tag("div", tag("span", row.words), tag("small", remark), badge)
    rate = format_rate(trial.samples_per_second) if trial.samples_per_second else "–"
    return _row(name, drawn, rate, role)


def _role(is_chosen: bool, is_own: bool) -> str:
    return "winner" if is_chosen else "own" if is_own else ""


def predicted(loader: LoaderResult) -> Markup | None:
    """Return a logarithmic plot of predicted over measured rates, or None if there are none."""
    points = [
        (trial.samples_per_second, trial.predicted_samples_per_second, trial)
        for trial in last_of_each(loader.trials)
        if trial.samples_per_second and trial.predicted_samples_per_second
    ]
    if not points:
        return None
    low = min(min(measured, said) for measured, said, _ in points) / _ROOM
    high = max(max(measured, said) for measured, said, _ in points) * _ROOM
    side = _PLOT - _PLOT_LEFT - _PLOT_MARGIN
    bottom = _PLOT_MARGIN + side

    def place(measured: float, said: float) -> tuple[float, float]:
        along, up = (math.log(min(max(rate, low), high) / low) / math.log(high / low) for rate in (measured, said))
        return _PLOT_LEFT + side * along, bottom - side * up

    shapes: list[Markup] = []
    for value in _decimal_ticks(low, high):
        x, y = place(value, value)
        shapes += [
            tag("line", class_="grid", x1=x, x2=x, y1=_PLOT_MARGIN, y2=bottom),
            tag("line", class_="grid", x1=_PLOT_LEFT, x2=_PLOT_LEFT + side, y1=y, y2=y),
            tag("text", f"{value:,.4g}", class_="tick", x=x, y=bottom + 16, text_anchor="middle"),
            tag("text", f"{value:,.4g}", class_="tick", x=_PLOT_LEFT - 8, y=y + 4, text_anchor="end"),
        ]
    (x0, y0), (x1, y1) = place(low, low), place(high, high)
    near = 1.0 + _NEAR
    corners = [(low, low), (low, low * near), (high / near, high), (high, high), (high, high / near), (low * near, low)]
    band = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*corner) for corner in corners))
    shapes.append(tag("polygon", class_="band", points=band))
    shapes.append(tag("line", class_="diagonal", x1=x0, y1=y0, x2=x1, y2=y1))
    for measured, said, trial in points:
        x, y = place(measured, said)
        told = f"{short(trial.config)}\nmeasured {format_rate(measured)}, predicted {format_rate(said)}"
        role = _role(trial.config == loader.tuned.config, trial.config == loader.baseline.config)
        shapes.append(tag("circle", tag("title", told), class_=f"point {role}", cx=x, cy=y, r=5.0))
    axes = (
        tag("text", "measured, samples/s", class_="axis", x=_PLOT_LEFT + side, y=bottom + 34, text_anchor="end"),
        tag("text", "predicted", class_="axis", x=_PLOT_LEFT + 6, y=_PLOT_MARGIN + 12),
    )
    height = bottom + _PLOT_BOTTOM
    return tag(
        "svg",
        *shapes,
        *axes,
        class_="plot",
        role="img",
        aria_label="Predicted against measured rates",
        viewBox=f"0 0 {_PLOT:.0f} {height:.0f}",
        width=_PLOT,
    )


def timeline(shown: Timeline, name: str) -> Markup:
    """Return a chart of what the workers, the main process and the training step do, one row each."""
    workers = shown.config.num_workers
    rows = [*range(min(workers, _ROWS_SHOWN)), MAIN, STEP]
    names = [f"worker {row + 1}" for row in rows[:-2]] + ["main process", "training step"]
    length = shown.end_seconds - shown.begin_seconds
    height = len(rows) * (_ROW + _ROW_GAP) - _ROW_GAP
    shapes = [
        tag("rect", class_="idle", x=0.0, width=_TIME_UNITS, y=place * (_ROW + _ROW_GAP), height=_ROW)
        for place in range(len(rows))
    ]
    for span in shown.spans:
        if span.process not in rows:
            continue
        begin = max(0.0, span.begin_seconds - shown.begin_seconds)
        end = min(length, span.end_seconds - shown.begin_seconds)
        took = format_seconds(span.end_seconds - span.begin_seconds)
        shapes.append(
            tag(
                "rect",
                tag("title", f"batch {span.batch} {span.doing}: {took}"),
                class_=span.doing.replace(" ", "-"),
                x=_TIME_UNITS * begin / length,
                width=_TIME_UNITS * (end - begin) / length,
                y=rows.index(span.process) * (_ROW + _ROW_GAP),
                height=_ROW,
            )
        )
    svg = tag(
        "svg",
        *shapes,
        role="img",
        aria_label=f"What everyone does, {name}",
        viewBox=f"0 0 {_TIME_UNITS:.0f} {height:.0f}",
        height=height,
        preserveAspectRatio="none",
    )
    hidden = f", and {workers - _ROWS_SHOWN} more workers like them" if workers > _ROWS_SHOWN else ""
    return tag(
        "div",
        tag("div", tag("b", name), tag("span", short(shown.config) + hidden), class_="caption"),
        tag(
            "div",
            tag("div", *(tag("span", words) for words in names), class_="labels"),
            tag("div", svg, _time_axis(length), class_="lanes"),
            class_="timeline",
        ),
    )


def time_legend() -> Markup:
    """Return the legend of a timeline's colours."""
    words = {
        "computes": "makes a batch, computing",
        "waits": "makes a batch, waiting",
        "takes-over": "takes a batch over",
        "steps": "trains",
    }
    return tag("div", *(_key(f"span {kind}", text) for kind, text in words.items()), class_="legend")


def _time_axis(seconds: float) -> Markup:
    marks = [
        tag("span", format_seconds(value) if value else "0", style=f"left:{_percent(value / seconds)}")
        for value in (0.0, *_ticks(seconds))
        if value < 0.95 * seconds
    ]
    return tag("div", *marks, class_="time")


def _ticks(top: float) -> list[float]:
    """Return up to five round numbers above zero, in equal steps."""
    rough = top / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return list(takewhile(lambda value: value <= top, (step * number for number in range(1, 6))))


def _decimal_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten in a range, or only the powers if those are too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [value for value in fine if low <= value <= high]
    return inside if len(inside) <= _TICKS else [10.0**power for power in powers if low <= 10.0**power <= high]


def _row(name: Content, drawn: Iterable[Content], value: str, role: str = "") -> Markup:
    return tag(
        "div",
        tag("div", name, class_="label"),
        tag("div", *drawn, class_="track"),
        tag("div", value, class_="value"),
        class_=f"row {role}".strip(),
    )


def _mark(kind: str, place: float) -> Markup:
    return tag("div", class_=f"mark {kind}", style=f"left:{_percent(min(1.0, place))}")


def _key(kind: str, words: str) -> Markup:
    return tag("span", tag("i", class_=kind), words)


def _percent(share: float) -> str:
    return f"{100 * share:.3f}%"
