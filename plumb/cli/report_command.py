"""`plumb report`: the report on a terminal, and a plan in the formats of other tools."""

from __future__ import annotations

import json
from pathlib import Path

from plumb.core import plan
from plumb.core.errors import CommandError
from plumb.core.plan import LoaderResult
from plumb.model.inputs import ModelInputs, SearchSpace
from plumb.model.serialization import from_plain
from plumb.model.timeline import Timeline, timelines
from plumb.model.whatif import AssumedHost, forecast
from plumb.report.html.page import Modelled, page
from plumb.report.output import wide_console, write_plainly
from plumb.report.perfetto import trace_events
from plumb.report.terminal import print_report


def report(path: Path, html: Path | None, perfetto: Path | None, as_json: bool) -> None:
    """Print a plan, or write it to the given files. Raise ExplainedError if a file can't be used."""
    try:
        found = plan.read(path)
        if as_json:
            write_plainly(plan.encode(found).decode().rstrip())
        if html is not None:
            _write(html, page(found, {loader.name: each for loader in found.loaders if (each := _modelled(loader))}))
        if perfetto is not None:
            shown = {loader.name: told for loader in found.loaders if (told := _simulated(loader))}
            _write(perfetto, json.dumps(trace_events(found, shown)))
        if not (as_json or html or perfetto):
            print_report(found, str(path), wide_console())
    except ValueError as error:
        raise CommandError(f"{path}: {error}. Tune again to replace the plan") from None


def _modelled(loader: LoaderResult) -> Modelled | None:
    """Return the model's additions to the page; None if the plan lacks the model's inputs."""
    told = _told(loader)
    return Modelled(_simulated(loader), forecast(*told, AssumedHost())) if told else None


def _simulated(loader: LoaderResult) -> tuple[Timeline, ...]:
    """Return simulated timelines before and after; only one if nothing was changed."""
    told = _told(loader)
    return timelines(told[0], tuple(dict.fromkeys((loader.baseline.config, loader.tuned.config)))) if told else ()


def _told(loader: LoaderResult) -> tuple[ModelInputs, SearchSpace] | None:
    return from_plain(loader.model) if loader.model is not None else None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path}: cannot be written ({(error.strerror or str(error)).lower()})") from None
