"""Clock of a plan's entry: the loader that it measures, and what is done with its results."""

from __future__ import annotations

import math
import sys
from typing import Any

from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.core.plan import Delivered, LoaderResult
from plumb.core.plan_marks import note_delivered
from plumb.core.sized import length_of
from plumb.host.cpu_load import OthersLoad
from plumb.runtime.run_clock import RunClock


def clock_of(loader: DataLoader[Any], planned: LoaderResult, users: Config) -> RunClock | None:
    """Return a clock for the epochs of a loader on its plan; None if the plan claims or changes nothing."""
    if planned.claim is None or planned.config.runs_like(users):
        return None

    def on_news(delivered: Delivered) -> None:
        note_delivered(planned, delivered)
        if delivered.is_slower:
            print(f"plumb: {planned.name} ({planned.site}): {slower(planned, delivered)}", file=sys.stderr)

    fill_batches = 0.0
    if planned.config.cache is not None:
        fill_batches = (length_of(loader.dataset) or math.inf) / planned.samples_per_batch
    return RunClock(
        planned.claim, planned.samples_per_batch, users, planned.config, fill_batches, on_news, load=OthersLoad
    )


def slower(planned: LoaderResult, delivered: Delivered) -> str:
    """Return a line that a plan is slower by the clock than the user's own configuration."""
    assert delivered.ratio is not None
    claimed = f", and not {planned.claim.gain:.2f} times as fast" if planned.claim and planned.claim.gain > 1 else ""
    return (
        f"by the clock your loop runs {delivered.ratio:.2f} times as fast on the plan as on the script's own "
        f"arguments, epochs by turns{claimed}; from here on it runs as the script has it. Tune again to renew the plan"
    )
