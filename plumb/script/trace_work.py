"""Trace of a script's first training loader, for `plumb trace`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from plumb.core import events
from plumb.core.errors import TuningError, UsersError, one_line
from plumb.tracing.device.profile import profile_device
from plumb.tracing.sample_source import TraceError, TraceTimeError
from plumb.tracing.tracer import trace
from plumb.tuning.measure.known_loader import KnownLoader
from plumb.tuning.measure.training_loop import LoopMeter, MeasurementCoroutine

_SAMPLES, _SECONDS_AT_LEAST = 16, 1.0


class TracingWork:
    """Tracer of one loader (a `session.Work`), between two batches of the script's loop."""

    only_one = True

    def __init__(self, emit: Callable[[events.Event], None]) -> None:
        self._emit = emit

    def run_in_loop(
        self, known: KnownLoader, loader: DataLoader[Any], loop: LoopMeter, own: Iterator[Any], deadline: float
    ) -> MeasurementCoroutine[events.Event]:
        """Trace the loader; the loop itself isn't needed."""
        yield from ()
        return self.run_alone(known, loader, deadline - time.perf_counter())

    def run_alone(self, known: KnownLoader, loader: DataLoader[Any], seconds: float) -> events.Event:
        """Return the loader's graph. Raise TuningError if it can't be traced, UsersError for the dataset's errors."""
        self._emit(events.Phase(f"{known.name}: what a sample goes through"))
        try:
            deadline = time.perf_counter() + max(seconds, _SECONDS_AT_LEAST)
            pipeline = trace(loader, _SAMPLES, deadline=deadline).pipeline
            device = profile_device(loader, pipeline, deadline=deadline)
            return events.Traced(known.name, str(known.site), pipeline.to_node_link(), device.to_dict())
        except TraceTimeError as error:
            text = f"{known.name} ({known.site}): {error}; give it more with --budget"
            raise TuningError(text, 1) from None
        except TraceError as error:
            raise TuningError(f"{known.name} ({known.site}): {one_line(error)}", 1) from None
        except Exception as error:
            raise UsersError(error) from None
