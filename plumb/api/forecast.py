"""`plumb.predict`: what a plan's loaders would do on another host."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from plumb.api.argument_checks import Size, size_of
from plumb.api.tune import LoaderPlan
from plumb.core.plan import Plan
from plumb.core.units import is_number
from plumb.model.whatif import AssumedHost
from plumb.report.output import as_plain_text
from plumb.report.plan_report import given_plan
from plumb.report.predict import LoaderForecast, forecast_plan, render, to_plain


def predict(
    plan: LoaderPlan | Plan | str | os.PathLike[str],
    *,
    cpus: float | None = None,
    memory: Size | None = None,
    step_rate: float | None = None,
) -> Forecast:
    """Predict what a plan's loaders would do on another host, and what that host would need more of.

    Nothing is measured: the model computes with what the tuning measured. More of a resource never predicts less.

    Args:
        plan: What `plumb.tune` returned, or the path of a plan file.
        cpus: Number of CPUs of the other host; None for that of the plan's host.
        memory: Its memory, as text with a unit such as "64GiB", or in bytes; None for that of the plan's host.
        step_rate: Rate of the training step there, in samples/s; None for that of the plan.

    Returns:
        The forecast; `print` shows what `plumb predict` prints.

    Raises:
        TypeError: `plan` is no plan, or an argument is of a wrong class.
        ValueError: A number can't be meant.
        plumb.core.plan.PlanError: There is no such plan, or it lacks what the model needs; the message is one line.

    >>> import plumb, torch
    >>> plan = plumb.tune(torch.rand(512, 8), batch_size=64, step=5000.0, budget=1)
    >>> forecast = plumb.predict(plan, cpus=64, step_rate=20_000.0)
    >>> forecast.loaders["Tensor"].host.best.samples_per_second > 0
    True
    """
    found, _ = given_plan(plan, "plumb.predict")
    for name, value in (("cpus", cpus), ("step_rate", step_rate)):
        if value is not None and not is_number(value):
            raise TypeError(f"{name}={value!r}: it is a number, for example {name}=16")
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name}={value!r}: it is a finite number above 0, for example {name}=16")
    memory_bytes = size_of("memory", memory)
    if memory_bytes is not None and not 0 < memory_bytes < float("inf"):
        raise ValueError(f'memory={memory!r}: it is a size above 0, for example memory="64GiB"')
    host = AssumedHost(cpus, memory_bytes, step_rate)
    return Forecast(found, forecast_plan(found, host))


@dataclass(frozen=True, repr=False)
class Forecast:
    """Forecast of a plan's loaders on another host; `print` shows it.

    Attributes:
        plan: The plan.
        loaders: For each loader's name, its forecast: `host.best` has the configuration and the loop's rate,
            `host.limited_by` the resource that limits it, `host.purchases` what to buy; `over_cores` has the same for
            4, 8, 16 and 32 CPUs.

    >>> import plumb, torch
    >>> plan = plumb.tune(torch.rand(512, 8), batch_size=64, budget=1)
    >>> [row.cpus for row in plumb.predict(plan).loaders["Tensor"].over_cores]
    [4, 8, 16, 32]
    """

    plan: Plan
    loaders: dict[str, LoaderForecast]

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as plain data, as `plumb predict --json` prints it."""
        return {name: to_plain(each) for name, each in self.loaders.items()}

    def __str__(self) -> str:
        """Return what `plumb predict` prints."""
        return as_plain_text(render(self.plan, self.loaders))

    def __repr__(self) -> str:
        return f"<Forecast for {', '.join(self.loaders) or 'no loaders'}>"
