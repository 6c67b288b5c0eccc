"""Report of a plan in every form: on a terminal, as a page for a browser, and as a trace for Perfetto."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from plumb.core import plan as plans
from plumb.core.errors import CommandError
from plumb.core.plan import LoaderResult, Plan
from plumb.model.inputs import ModelInputs, SearchSpace
from plumb.model.serialization import from_plain
from plumb.model.timeline import Timeline, timelines
from plumb.model.whatif import AssumedHost, forecast, in_use
from plumb.report.html.page import Modelled, page
from plumb.report.output import wide_console
from plumb.report.perfetto import trace_events
from plumb.report.terminal import print_report


def given_plan(given: Any, function: str) -> tuple[Plan, str]:
    """Return the plan that a user passed to `function`, and its file; empty if there is none.

    Args:
        given: A plan, a `plumb.LoaderPlan`, or the path of a plan's file.
        function: Name of the called function, for the error.

    Raises:
        TypeError: It is something else.
        PlanError: The file can't be read.
    """
    if isinstance(given, str | os.PathLike):
        return plans.read(Path(given)), os.fspath(given)
    found = getattr(given, "found", given)
    if not isinstance(found, Plan):
        raise TypeError(
            f"{function} takes a plan, not {type(given).__name__}: give what plumb.tune returned, or the path of a "
            'plan file, such as "train.plumb.json"'
        )
    return found, ""


def show_plan(found: Plan, path: str, html: Path | None, perfetto: Path | None) -> None:
    """Write a plan to the given files, or print it if there are none.

    Raises:
        ValueError: The plan is damaged.
        CommandError: A file can't be written.
    """
    if html is not None:
        _write(html, page(found, {loader.name: each for loader in found.loaders if (each := _modelled(loader))}))
    if perfetto is not None:
        shown = {loader.name: told for loader in found.loaders if (told := _simulated(loader))}
        _write(perfetto, json.dumps(trace_events(found, shown)))
    if html is None and perfetto is None:
        print_report(found, path, wide_console())


def _modelled(loader: LoaderResult) -> Modelled | None:
    """Return the model's additions to the page; None if the plan lacks the model's inputs."""
    told = _told(loader)
    if told is None:
        return None
    return Modelled(_simulated(loader), forecast(*told, AssumedHost(), in_use(loader, told[0])))


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
