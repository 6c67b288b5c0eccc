"""Forecasts for the terminal and as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from plumb.core.plan import LoaderResult, Plan
from plumb.core.units import format_rate
from plumb.model.whatif import HostForecast
from plumb.report.wording import RESOURCES, reason, short


def render(plan: Plan, forecasts: Mapping[str, HostForecast]) -> RenderableType:
    """Show each loader's best configuration on the assumed host, its bottleneck, and what to buy."""
    parts: list[RenderableType] = []
    for loader in plan.loaders:
        parts.append(Text.assemble((loader.name, "bold"), (f"  {loader.site}", "dim")))
        parts += [Padding(Text(line), (0, 0, 0, 2)) for line in _lines(loader, forecasts[loader.name])]
    return Group(*parts)


def _lines(loader: LoaderResult, forecast: HostForecast) -> Iterable[str]:
    best, prediction = forecast.best, forecast.prediction
    if best is None or prediction is None:
        broken = ", ".join(f"{name} ({count:,})" for name, count in forecast.excluded.items())
        yield f"None of {forecast.considered:,} configurations fits; limits and how many break them: {broken}."
        return
    loop = "loop" if loader.step_samples_per_second else "loader"
    yield f"best  {short(best.config)}: {format_rate(best.samples_per_second)} of the {loop}, by the model"
    if forecast.filling_samples_per_second is not None:
        yield f"Its first epoch, which stores the samples, goes at {format_rate(forecast.filling_samples_per_second)}."
    now = loader.end_to_end.tuned if loader.end_to_end else loader.tuned.samples_per_second
    yield f"here  {short(loader.tuned.config)}: {format_rate(now)}, measured"
    yield f"What limits it is {reason(prediction, best.config)}."
    if prediction.then is not None:
        bound = format_rate(prediction.bounds[prediction.then])
        yield f"What would bind next is {RESOURCES[prediction.then]}, at {bound}."
    yield advice(forecast)


def advice(forecast: HostForecast) -> str:
    """Return advice on what to buy, if anything would help."""
    if forecast.is_fed:
        return "Buy nothing for the data: the training step binds."
    if not forecast.purchases:
        return "Buy nothing: twice the cores, memory or disk bandwidth, as far as they are known, would not help."
    offers = (
        f"more {offer.what} (twice gives {format_rate(offer.samples_per_second)})" for offer in forecast.purchases
    )
    return f"Buy {', or '.join(offers)}."


def to_plain(forecast: HostForecast) -> dict[str, Any]:
    """Return a forecast as plain data for JSON."""
    plain: dict[str, Any] = msgspec.to_builtins(dataclasses.asdict(forecast))
    return plain
