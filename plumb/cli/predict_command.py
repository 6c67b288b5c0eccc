"""`plumb predict`: what a plan's loaders would do on another host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from plumb.core import plan
from plumb.core.errors import CommandError
from plumb.report.output import wide_console, write_plainly

if TYPE_CHECKING:
    from plumb.model.whatif import AssumedHost


def predict(path: Path, host: AssumedHost, as_json: bool) -> int:
    """Print the predictions for a plan's loaders on `host`. Raise ExplainedError if the plan lacks what they need."""
    from plumb.model.serialization import from_plain
    from plumb.model.whatif import forecast
    from plumb.report.predict import render, to_plain

    found = plan.read(path)
    forecasts = {}
    for loader in found.loaders:
        if loader.model is None:
            raise CommandError(f"{path} does not hold what the model needs: an older plumb wrote it. Tune again")
        try:
            forecasts[loader.name] = forecast(*from_plain(loader.model), host)
        except ValueError as error:
            raise CommandError(f"{path}: {loader.name}: {error}. Tune again to replace the plan") from None
    if as_json:
        write_plainly(json.dumps({name: to_plain(each) for name, each in forecasts.items()}, indent=2))
    else:
        wide_console().print(render(found, forecasts))
    return 0
