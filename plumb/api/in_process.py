"""Tuning of one loader within the calling process: a notebook, or a script in the middle of its run."""

from __future__ import annotations

import contextvars
import dataclasses
import gc
import itertools
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import closing
from typing import Any

from torch.utils.data import DataLoader

from plumb.core.errors import TuningError, UsersError
from plumb.core.events import Event, LoaderDone, Phase
from plumb.core.plan import LoaderResult, Plan, decode, encode
from plumb.host import Machine, describe
from plumb.instrument.call_site import Site
from plumb.instrument.identity_of_loader import facts_of_loader, identity_of, place_of
from plumb.instrument.restore import restored_state
from plumb.report.notebook import progress_line
from plumb.runtime.loader import current_config, rebuild
from plumb.tracing.device.profile import has_accelerator
from plumb.tuning.in_loop import TuningWork
from plumb.tuning.loader_under_test import TrainingStep
from plumb.tuning.measure.known_loader import KnownLoader
from plumb.tuning.measure.no_batches import why_no_batches, why_none_by_lengths
from plumb.tuning.measure.replayed_batches import RestartingIterator
from plumb.tuning.measure.samples_per_batch import samples_per_batch
from plumb.tuning.measure.training_loop import ErrorForLoop, LoopMeter
from plumb.tuning.memory_check import check_memory
from plumb.tuning.options import Options

_ALONE = "tuned on its own, without a step rate"


def tune_here(
    loader: DataLoader[Any], site: Site, options: Options, step: Callable[[Any], object] | float | None = None
) -> Plan:
    """Tune a loader and return its plan.

    Changes made by reading are undone, as far as `restored_state` can; one line says which change was not.

    Args:
        loader: The loader.
        site: Place that iterates it.
        options: The user's wishes.
        step: Consumer of a batch, or its rate in samples/s; None tunes for the loader's own rate.

    Raises:
        TuningError: Nothing can be measured, or the limits are too low.
        Exception: Whatever the dataset or the step raises.
    """
    started = time.perf_counter()
    check_memory(options)
    why = why_none_by_lengths(loader)
    if why is not None:
        raise TuningError(f"{site.name} has no batches: {why}", 1)
    try:
        with restored_state(loader, only_samples=not callable(step)) as restoration:
            # Context variables that samples set keep their values here.
            planned = contextvars.copy_context().run(_tune, loader, site, options, step)
    except UsersError as users:
        raise users.error from None
    finally:
        # Stores that trials filled are in reference cycles, and keep their memory until these are collected.
        gc.collect()
    if restoration.not_restored:
        print(
            f"plumb: the samples that were read while {site.name} ({site}) was tuned have changed "
            f"{restoration.not_restored}, which could not be put back: what depends on it may differ in this run",
            file=sys.stderr,
            flush=True,
        )
    seconds = time.perf_counter() - started
    found = Plan("", describe(options.limits, Machine.detect()), seconds, 0.0, (planned,))
    # Decoded like a file, so that a plan is the same whether it was stored or not.
    return decode(encode(found))


def _tune(
    loader: DataLoader[Any], site: Site, options: Options, step: Callable[[Any], object] | float | None
) -> LoaderResult:
    identity = dataclasses.replace(identity_of(loader, place_of(site), 1), facts=facts_of_loader(loader))
    known = KnownLoader(site.name, site, weakref.ref(loader), loader.batch_size, identity=identity)
    with progress_line(f"{site.name}: tuning") as line:

        def emit(event: Event) -> None:
            if isinstance(event, Phase):
                line.phase(event.text)

        tuning = TuningWork(options, emit)
        if callable(step):
            return _tune_for_function(step, tuning, known, loader, options.budget_seconds).plan
        rate = TrainingStep(float(step), 0.0, blocks=not has_accelerator()) if step is not None else None
        notes = [] if rate else [_ALONE]
        return tuning.run_for_step(known, loader, options.budget_seconds, rate, options.window_seconds, *notes).plan


def _tune_for_function(
    step: Callable[[Any], object], tuning: TuningWork, known: KnownLoader, loader: DataLoader[Any], seconds: float
) -> LoaderDone:
    """Tune as `plumb tune` does through a script's loop, with `step` as the body of the loop."""
    deadline = time.perf_counter() + seconds
    batches = RestartingIterator(None, lambda: iter(rebuild(loader, current_config(loader), None)))
    try:
        first = next(batches)
    except UsersError as users:
        if isinstance(users.error, StopIteration):
            raise TuningError(f"{known.name} has no batches: {why_no_batches(loader)}", 1) from None
        raise
    known.note_batch(first, 0.0)
    loop = LoopMeter(samples_per_batch(loader, known.samples_per_batch), float("inf"))
    coroutine = tuning.run_in_loop(known, loader, loop, itertools.chain([first], batches), deadline)
    with closing(coroutine):
        while True:
            try:
                batch = next(coroutine)
            except StopIteration as done:
                result: LoaderDone = done.value
                return result
            if isinstance(batch, ErrorForLoop):
                raise UsersError(batch.error)
            step(batch)
