"""`plumb predict`: what a plan's loaders would do on another host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from plumb.core import plan
from plumb.core.plan import PlanError
from plumb.report.output import wide_console, write_plainly

if TYPE_CHECKING:
    from plumb.model.whatif import AssumedHost


def predict(path: Path, host: AssumedHost, as_json: bool) -> int:
    """Print the predictions for a plan's loaders on `host`. Raise ExplainedError if the plan lacks what they need."""
    from plumb.report.predict import forecast_plan, render, to_plain

    found = plan.read(path)
    try:
        forecasts = forecast_plan(found, host)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None
    if as_json:
        write_plainly(json.dumps({name: to_plain(each) for name, each in forecasts.items()}, indent=2))
    else:
        wide_console().print(render(found, forecasts))
    return 0
