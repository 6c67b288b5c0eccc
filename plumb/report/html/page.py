"""HTML report of a plan, a page without network access and scripts: for each loader the answer, then the reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from plumb.core.plan import LoaderResult, Plan
from plumb.core.units import format_bytes, format_rate, format_seconds
from plumb.model.timeline import Timeline
from plumb.model.whatif import HostForecast
from plumb.report.answer import answer, budget_option, is_changed, is_offered
from plumb.report.framework_settings import framework_setting
from plumb.report.html import charts, graph_drawing
from plumb.report.html.markup import Content, Markup, join, tag
from plumb.report.predict import advice
from plumb.report.wording import (
    arguments,
    bottleneck,
    by_the_clock,
    capital,
    cost,
    grouped,
    how_to_use,
    percent,
    plain_gain,
    short,
    written_config,
)
from plumb.tracing.pipeline import Operator, Pipeline
from plumb.tracing.stored_pipeline import from_node_link

# Allows only the page's own styles, so that text in a plan can't make a browser fetch or run anything.
_FILES_SHOWN = 20
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Modelled:
    """Additions of the model to a loader's plan: simulated timelines (before and after), and a forecast."""

    timelines: tuple[Timeline, ...]
    forecast: HostForecast


def page(plan: Plan, modelled: Mapping[str, Modelled]) -> str:
    """Return the page as text.

    Args:
        plan: Plan to report.
        modelled: Additions of the model, by the loader's name.

    Raises:
        ValueError: A loader's graph is damaged.

    """
    style = files("plumb.report").joinpath("report.css").read_text("utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"plumb: {_title(plan)}"),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(style)),
    )
    loaders = (_loader(loader, plan, modelled.get(loader.name)) for loader in plan.loaders)
    body = tag("body", _header(plan), tag("main", *loaders), _footer(plan))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _title(plan: Plan) -> str:
    """Return the script, or the datasets if they were tuned from within Python."""
    return plan.script or ", ".join(loader.dataset for loader in plan.loaders)


def _header(plan: Plan) -> Markup:
    packages = plan.host.get("packages") or {}
    facts = [
        plan.host.get("cpu_model"),
        f"{plan.host['usable_cpus']:g} CPUs" if plan.host.get("usable_cpus") else None,
        *(str(gpu.get("name")) for gpu in plan.host.get("gpus") or ()),
        f"torch {packages['torch']}" if packages.get("torch") else None,
    ]
    host = " · ".join(fact for fact in facts if fact)
    links = [tag("a", loader.name, href=f"#loader-{place}") for place, loader in enumerate(plan.loaders)]
    navigation = tag("nav", *links) if len(links) > 1 else None
    return tag("header", tag("span", "plumb", class_="brand"), tag("h1", _title(plan)), tag("p", host), navigation)


def _loader(loader: LoaderResult, plan: Plan, modelled: Modelled | None) -> Markup:
    pipeline = from_node_link(loader.graph) if loader.graph is not None else None
    size = f"batches of {loader.samples_per_batch:,.0f}"
    place = next(place for place, each in enumerate(plan.loaders) if each is loader)
    return tag(
        "article",
        tag("h2", loader.name, tag("small", f"{loader.site} · {loader.dataset} · {size}")),
        tag("p", _answer_in_words(loader, plan), class_="verdict"),
        _use(loader, plan),
        _answer(loader),
        *(tag("p", line, class_="clock") for line in by_the_clock(loader) if is_changed(loader)),
        tag("p", bottleneck(loader), class_="bottleneck"),
        _step(loader),
        _operators(loader, pipeline) if pipeline is not None else None,
        _bounds(loader),
        _timelines(loader, modelled.timelines) if modelled is not None and modelled.timelines else None,
        _trials(loader),
        _next(loader, modelled.forecast) if modelled is not None else None,
        _remarks(loader),
        id=f"loader-{place}",
    )


# ---- the answer


def _rates(loader: LoaderResult) -> tuple[float, float]:
    """Return samples per second before and now: of the training loop if it was measured, else of the loader alone."""
    loop = loader.end_to_end
    return (
        (loop.baseline, loop.tuned) if loop else (loader.baseline.samples_per_second, loader.tuned.samples_per_second)
    )


def _answer_in_words(loader: LoaderResult, plan: Plan) -> str:
    return f"{capital(answer(loader, budget_option(plan)))}."


def _answer(loader: LoaderResult) -> Markup:
    before, now = _rates(loader)
    whose = "your training loop" if loader.end_to_end else "the loader alone"
    if not is_changed(loader):
        return tag("div", _figure(whose, now, "now"), class_="answer")
    times = loader.end_to_end.ratio if loader.end_to_end else now / before
    gain = [tag("strong", f"{times:.3g}×"), tag("span", f"as fast, {whose}")]
    return tag(
        "div",
        _figure("before", before, "was", short(loader.baseline.config)),
        tag("div", "→", class_="arrow"),
        _figure("after", now, "now", short(loader.tuned.config)),
        tag("div", *gain, class_="gain"),
        class_="answer",
    )


def _figure(name: str, rate: float, kind: str, config: str | None = None) -> Markup:
    number, unit = format_rate(rate).split(" ", 1)
    figure = tag("div", tag("b", number), tag("span", unit), class_="number")
    words = tag("div", config, class_="config") if config else None
    return tag("div", tag("div", name, class_="name"), figure, words, class_=f"figure {kind}")


def _use(loader: LoaderResult, plan: Plan) -> Markup | None:
    """Return the ways to use the plan, or None if it offers nothing."""
    if not is_offered(loader):
        return None
    runs = "runs the script with this plan" if plan.script else "is a loader with this plan"
    ways = [tag("div", tag("code", how_to_use(plan, "")), tag("span", runs))]
    setting = framework_setting(loader)
    if setting is not None:
        ways.append(tag("div", tag("code", setting), tag("span", f"sets it where {loader.library} makes the loader")))
    elif (config := written_config(loader)) is not None:
        written = tag("code", f"DataLoader(…, {arguments(config)})")
        where = f"at {loader.site}; plumb apply writes it for you" if plan.script else f"at {loader.site}"
        where = "; ".join(filter(None, (where, plain_gain(loader))))
        ways.append(tag("div", written, tag("span", where)))
    return tag("div", *ways, class_="use")


# ---- the why


def _section(title: str, explanation: str | None, *content: Content) -> Markup:
    return tag("section", tag("h3", title), tag("p", explanation, class_="lead") if explanation else None, *content)


def _step(loader: LoaderResult) -> Markup | None:
    loop = loader.end_to_end
    if loop is None or loop.baseline_shares is None or loop.tuned_shares is None:
        return None
    sides = [("before", loop.baseline_shares, loader.samples_per_batch / loop.baseline)]
    sides.append(("after", loop.tuned_shares, loader.samples_per_batch / loop.tuned))
    return _section(
        "Where the time of a step goes",
        "One training step in your own loop, from one batch to the next. How long it is and how much of it waits is "
        "measured; what the waiting is for is the model's account of it.",
        charts.shares(sides if is_changed(loader) else [("as it is", *sides[0][1:])]),
    )


def _operators(loader: LoaderResult, pipeline: Pipeline) -> Markup:
    headings = (("operator", ""), *((figure, "n") for figure in _FIGURES))
    whole = max(pipeline.sample_seconds, pipeline.attributed_seconds)
    rows = [_operator(loader, pipeline, operator, whole) for operator in pipeline.operators]
    if pipeline.unattributed_seconds > 0:
        figures = (format_seconds(pipeline.unattributed_seconds), percent(pipeline.unattributed_share), "", "", "")
        rows.append(tag("tr", tag("td", "the code between them"), *_cells(figures), class_="rest"))
    head = tag("tr", *(tag("th", words, class_=kind or None) for words, kind in headings))
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    keys = {"computes": "computes", "waits": "waits"}
    keys |= {state.replace(" ", "-"): words for state, words in _STATES.items() if _occurs(loader, pipeline, state)}
    legend = tag("div", *(tag("span", tag("i", class_=f"key {key}"), words) for key, words in keys.items()))
    return _section(
        "What a sample goes through",
        f"{format_seconds(pipeline.sample_seconds)} for one sample of {pipeline.dataset}, the mean of "
        f"{pipeline.samples:,} that were traced in your own configuration.",
        tag(
            "div",
            tag("div", graph_drawing.draw(pipeline, loader.tuned.config), class_="graph"),
            tag("div", tag("div", table, class_="scroll stacked"), tag("div", legend, class_="legend"), class_="costs"),
            class_="pipeline",
        ),
    )


_STATES = {
    "random": "draws random numbers",
    "stored": "its output is stored",
    "skipped": "skipped where a stored sample is found",
    "on batches": "runs on whole batches",
}


def _occurs(loader: LoaderResult, pipeline: Pipeline, state: str) -> bool:
    return any(
        state in graph_drawing.states(pipeline, operator, loader.tuned.config) for operator in pipeline.operators
    )


def _operator(loader: LoaderResult, pipeline: Pipeline, operator: Operator, whole_seconds: float) -> Markup:
    particular = graph_drawing.states(pipeline, operator, loader.tuned.config)
    name = tag("td", tag("span", operator.name, title=operator.location), tag("small", _place(operator, particular)))
    share = percent(operator.wall_seconds / whole_seconds) if whole_seconds else ""
    seconds = (operator.wall_seconds, operator.cpu_seconds, operator.wait_seconds)
    wall, computing, waiting = (format_seconds(each) if each else "–" for each in seconds)
    size = format_bytes(operator.output_bytes) if operator.output_bytes else "–"
    return tag("tr", name, *_cells((wall, share, computing, waiting, size)))


def _place(operator: Operator, particular: Iterable[str]) -> str:
    folder, _, place = operator.location.rpartition("/")
    return ", ".join(filter(None, (operator.kind, *particular, place or folder)))


_FIGURES = ("time", "share", "computes", "waits", "output")


def _cells(figures: Iterable[str]) -> Iterable[Markup]:
    """Return an operator's figures; where a page is too narrow for columns, each has its heading in front."""
    return (_cell(figure, name) for figure, name in zip(figures, _FIGURES, strict=True))


def _cell(figure: str, label: str | None = None) -> Markup:
    return tag("td", figure, class_="n", data_label=label)


def _bounds(loader: LoaderResult) -> Markup | None:
    if not loader.predicted.bounds:
        return None
    before, now = _rates(loader)
    return _section(
        "What each resource allows",
        "The rate that each resource would allow by itself with the chosen configuration, by the model. The smallest "
        "is the bottleneck.",
        charts.bounds(loader, before if is_changed(loader) else None, now),
    )


def _timelines(loader: LoaderResult, timelines: Sequence[Timeline]) -> Markup:
    names = ("before", "after") if len(timelines) > 1 else ("as it is",)
    drawn = (charts.timeline(timeline, name) for name, timeline in zip(names, timelines, strict=True))
    return _section(
        "The workers at work",
        "A simulation, not a recording: the model's twin of the loader and of your loop, from the costs that were "
        "measured. Every block is a batch; where a row is empty, it waits.",
        *drawn,
        charts.time_legend(),
    )


def _trials(loader: LoaderResult) -> Markup | None:
    if not loader.trials:
        return None
    plot = charts.predicted(loader)
    explained = tag(
        "p",
        "On the diagonal the model was exactly right; the band is 10\N{NO-BREAK SPACE}% to both sides. Above it the "
        "model hoped for more than there was, below it for less. What is chosen is always what was measured.",
        class_="lead",
    )
    return _section(
        "What was tried",
        "Real loaders on your own samples, counted in steady state, without your training loop. Your configuration and "
        "the best few were measured by turns, so that drift of the machine hits all of them.",
        charts.trials(loader),
        tag("h4", "Predicted against measured") if plot else None,
        tag("div", plot, explained, class_="aside") if plot else None,
    )


def _next(loader: LoaderResult, forecast: HostForecast) -> Markup:
    return _section(
        "What would help next", "By the model, on this host, with the plan in use.", tag("p", advice(forecast))
    )


def _remarks(loader: LoaderResult) -> Markup:
    parts: list[Content] = []
    if loader.notes:
        parts += [tag("h4", "Notes"), tag("ul", *(tag("li", note) for note in loader.notes))]
    if loader.rewrites.reasons:
        rows = (
            tag("div", tag("dt", why), tag("dd", ", ".join(what)))
            for why, what in grouped(loader.rewrites.reasons).items()
        )
        parts += [tag("h4", "Not offered, because"), tag("dl", *rows)]
    if loader.rewrites.summary:
        parts += [tag("h4", "Compared with your plain code, bit by bit"), tag("p", f"{loader.rewrites.summary}.")]
    parts += [tag("h4", "The loader alone"), _alone(loader)]
    if loader.cost is not None:
        parts += [tag("h4", "What the tuning took"), tag("p", cost(loader, loader.cost, is_offered(loader)))]
    return _section("Fine print", None, *parts)


def _alone(loader: LoaderResult) -> Markup:
    """Return a table of the rates of the loader alone, with the full configurations."""
    sides = {"before": loader.baseline, "after": loader.tuned} if is_changed(loader) else {"as it is": loader.baseline}
    rows = (
        tag(
            "tr",
            tag("td", name),
            _cell(format_rate(side.samples_per_second)),
            _cell("{:,.0f} to {:,.0f}".format(*side.interval), "95 % interval"),
            tag("td", str(side.config)),
        )
        for name, side in sides.items()
    )
    head = tag("tr", tag("th"), *(tag("th", words, class_="n") for words in ("measured", "95 % interval")), tag("th"))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll stacked alone")


def _footer(plan: Plan) -> Markup:
    begun = f"{format_seconds(plan.startup_seconds)} until the script's loop began, " if plan.script else ""
    took = f"{begun}{format_seconds(plan.tuning_seconds)} of tuning."
    wrote: Any = None
    if plan.files is not None:
        lines = plan.files.sentences(Path.cwd(), _FILES_SHOWN)
        wrote = tag("details", tag("summary", "Files of the script"), join(tag("p", line) for line in lines))
        wrote = wrote if lines else None
    elif plan.written_files:
        names = join(tag("li", name) for name in plan.written_files)
        wrote = tag("details", tag("summary", "Files that the script wrote while it was tuned"), tag("ul", names))
    advices = [tag("p", str(each)) for each in plan.host.get("advice") or ()]
    return tag("footer", *advices, wrote, tag("p", took))
