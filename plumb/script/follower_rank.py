"""Work of a rank while another one is tuned: its loop always has a batch ready, and never ends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any, NoReturn

from torch.utils.data import DataLoader

from plumb.core import events
from plumb.core.errors import LoopEndedError
from plumb.tuning.measure.known_loader import KnownLoader
from plumb.tuning.measure.replayed_batches import replayed
from plumb.tuning.measure.training_loop import LoopMeter, MeasurementCoroutine

_KEPT_BATCHES = 2


class FollowerRankWork:
    """Source of batches for the script's loop (a `session.Work`) until the parent ends the process."""

    only_one = True

    def run_in_loop(
        self, known: KnownLoader, loader: DataLoader[Any], loop: LoopMeter, own: Iterator[Any], deadline: float
    ) -> MeasurementCoroutine[events.Event]:
        """Yield the loader's first batches in a cycle, as many as the loop may get."""
        with contextlib.suppress(LoopEndedError):
            for given, batch in enumerate(replayed(islice(own, _KEPT_BATCHES), loader.pin_memory)):
                if given >= loop.batches_at_most:
                    break
                yield batch
        return self.run_alone(known, loader, deadline)

    def run_alone(self, known: KnownLoader, loader: DataLoader[Any], seconds: float) -> NoReturn:
        """Wait for ever, because the loop must not go on."""
        while True:
            threading.Event().wait()
