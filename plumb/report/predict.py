"""Forecasts of a plan's loaders on another host, for the terminal and as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from plumb.core.plan import LoaderResult, Plan, PlanError
from plumb.core.units import format_rate
from plumb.model.planner import Candidate
from plumb.model.serialization import from_plain
from plumb.model.whatif import (
    AssumedHost,
    ForecastOfCores,
    HostForecast,
    InUse,
    Purchase,
    forecast,
    in_use,
    over_cores,
)
from plumb.report.wording import RESOURCES, reason, short

# Rates closer than this are about the same.
_ALIKE = 0.05
_LIMITS = {
    "cpu": "the CPU: more cores would make more samples",
    "memory": "the memory: with more of it, more samples could be stored or more workers started",
    "workers": "the workers: each is busy all the time, and no more of them are allowed",
}


@dataclass(frozen=True)
class LoaderForecast:
    """A loader's forecast on a host, and on such hosts with other numbers of CPUs.

    `in_use` is the plan's configuration, with the loop's rate where it was tuned.
    """

    host: HostForecast
    in_use: InUse
    over_cores: tuple[ForecastOfCores, ...]


def forecast_plan(plan: Plan, host: AssumedHost) -> dict[str, LoaderForecast]:
    """Return the forecasts of a plan's loaders, by name. Raise PlanError if the plan lacks what they need."""
    found = {}
    for loader in plan.loaders:
        if loader.model is None:
            raise PlanError(
                f"the plan does not hold what the model needs for {loader.name}: an older plumb wrote it. Tune again"
            )
        try:
            inputs, search_space = from_plain(loader.model)
        except ValueError as error:
            raise PlanError(f"{loader.name}: {error}. Tune again to replace the plan") from None
        known = inputs, search_space, host, in_use(loader, inputs)
        found[loader.name] = LoaderForecast(forecast(*known), known[-1], over_cores(*known))
    return found


def render(plan: Plan, forecasts: Mapping[str, LoaderForecast]) -> RenderableType:
    """Show each loader's best configuration on the assumed host, what limits it, what to buy, and a table of cores."""
    parts: list[RenderableType] = []
    for loader in plan.loaders:
        parts.append(Text.assemble((loader.name, "bold"), (f"  {loader.site}", "dim")))
        parts += [Padding(Text(line), (0, 0, 0, 2)) for line in _lines(loader, forecasts[loader.name])]
        parts.append(Padding(_table(forecasts[loader.name]), (1, 0, 1, 2)))
    return Group(*parts)


def _lines(loader: LoaderResult, found: LoaderForecast) -> Iterable[str]:
    on_host = found.host
    best, prediction = on_host.best, on_host.prediction
    if best is None or prediction is None:
        broken = ", ".join(f"{name} ({count:,})" for name, count in on_host.excluded.items())
        yield f"None of {on_host.considered:,} configurations fits; limits and how many break them: {broken}."
        return
    whose = "loop" if "step" in prediction.bounds else "loader"
    rate, now = format_rate(best.samples_per_second), found.in_use.samples_per_second
    if on_host.is_here:
        yield f"best  {short(best.config)}: {rate} of the {whose}, which is what you have"
    else:
        yield f"best  {short(best.config)}: {rate} of the {whose}, by the model"
        yield f"here  {short(found.in_use.config)}: {format_rate(now)}, measured"
        if abs(best.samples_per_second - now) <= _ALIKE * now:
            yield "That is about what you have."
    if on_host.filling_samples_per_second is not None:
        first = format_rate(on_host.filling_samples_per_second)
        yield f"Its first epoch, which stores the samples, goes at {first}."
    if on_host.without_store:
        yield f"It does without the plan's store: {on_host.without_store}."
    yield f"What limits it is {limit(on_host)}."
    if prediction.then is not None and not on_host.is_fed:
        bound = format_rate(prediction.bounds[prediction.then])
        yield f"What would limit it next is {RESOURCES[prediction.then]}, at {bound}."
    yield advice(on_host)


def _table(found: LoaderForecast) -> Table:
    """Return the table of forecasts over numbers of CPUs, all else as on the assumed host."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("CPUs", justify="right", no_wrap=True)
    table.add_column("samples/s", justify="right", no_wrap=True)
    table.add_column("limited by", no_wrap=True)
    table.add_column("configuration")
    for row in found.over_cores:
        best = row.forecast.best
        if best is None:
            table.add_row(f"{row.cpus:g}", "", "", "nothing fits")
            continue
        limited_by = RESOURCES.get(row.forecast.limited_by, "the memory")
        rate = format_rate(best.samples_per_second).removesuffix(" samples/s")
        table.add_row(f"{row.cpus:g}", rate, limited_by, Text(short(best.config)))
    return table


def limit(found: HostForecast) -> str:
    """Return a text that names what limits the best configuration on a host, and how it shows."""
    assert found.best is not None
    assert found.prediction is not None
    return _LIMITS.get(found.limited_by) or reason(found.prediction, found.best.config)


def advice(found: HostForecast) -> str:
    """Return advice on what to buy, if anything would help."""
    if found.is_fed:
        return "Buy nothing for the data: the training step limits the loop."
    if not found.purchases:
        return "Buy nothing: twice the cores, memory or disk bandwidth, as far as they are known, would not help."
    assert found.best is not None
    offers = (
        f"more {offer.what} (twice gives {format_rate(offer.samples_per_second)}{_other_workers(offer, found.best)})"
        for offer in found.purchases
    )
    return f"Buy {', or '.join(offers)}."


def _other_workers(offer: Purchase, best: Candidate) -> str:
    count = offer.config.num_workers
    return "" if count == best.config.num_workers else f", with {count or 'no'} worker{'s' * (count != 1)}"


def to_plain(found: LoaderForecast) -> dict[str, Any]:
    """Return a forecast as plain data for JSON."""
    rows = [
        {
            "cpus": row.cpus,
            "samples_per_second": row.forecast.best.samples_per_second if row.forecast.best else None,
            "config": msgspec.to_builtins(row.forecast.best.config) if row.forecast.best else None,
            "limited_by": row.forecast.limited_by or None,
        }
        for row in found.over_cores
    ]
    in_use = msgspec.to_builtins(found.in_use)
    plain: dict[str, Any] = msgspec.to_builtins(dataclasses.asdict(found.host))
    return {**plain, "in_use": in_use, "over_cores": rows}
