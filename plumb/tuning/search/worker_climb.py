"""Measurement of a source's capacity with workers, if threads of one process can't reach it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from plumb.core.config import Config
from plumb.model import constraints
from plumb.model.concurrency_climb import ClimbEnd, ReadsAtOnce, SourceCapacity, capacity_of, next_reads
from plumb.model.inputs import ModelInputs, bandwidth
from plumb.rewrites.reads_at_once import tried_again
from plumb.tuning.search.calibration_runs import CalibrationRun
from plumb.tuning.search.ledger import TrialResult

# A run needs about this many batches of each worker until its rate is known.
_BATCHES_EACH = 6.0
# A run is not begun if it takes more than this share of the remaining time for all.
_SHARE_OF_TIME = 0.25
_NO_TIME = "there was no time"


def climb_workers(
    inputs: ModelInputs,
    plain: Config,
    most: int,
    known: Sequence[TrialResult],
    probe: Callable[[ModelInputs, Config], CalibrationRun | str | None],
    seconds_left: Callable[[], float],
) -> ModelInputs:
    """Return the model inputs with the source's capacity, measured with repeatedly doubled numbers of workers.

    The climb ends when more workers deliver no more.

    Args:
        inputs: Present model inputs. Their source, if any, was not exhausted by threads of one process.
        plain: One worker's configuration, with its number of fetch threads.
        most: Largest number of samples that may be read at once.
        known: Measurements made already.
        probe: Runs a configuration for a short time; returns why it failed, or None if there was no time.
        seconds_left: Returns the remaining time in seconds.
    """
    threads = plain.fetch_threads
    seen = [
        ReadsAtOnce(reading.config.num_workers * threads, reading.loader.samples_per_second)
        for reading in known
        if reading.loader is not None
        and reading.config.num_workers
        and (reading.config.fetch_threads, reading.config.fetch_until) == (threads, plain.fetch_until)
    ]
    seen.sort(key=lambda one: one.reads)
    if threads == 1 and not any(one.reads == 1 for one in seen):
        seen.insert(0, ReadsAtOnce(1, 1.0 / max(inputs.cost.wall_seconds, 1e-9)))
    unclimbed, reason = dataclasses.replace(inputs, source=None), ""
    while (reads := next_reads(seen, most) if seen else threads) is not None and reads % threads == 0:
        config = dataclasses.replace(plain, num_workers=reads // threads)
        reason = constraints.broken_limit(config, unclimbed) or ""
        if reason:
            break
        batch_seconds = inputs.cost.wall_seconds * inputs.samples_per_batch / threads
        if _BATCHES_EACH * batch_seconds > _SHARE_OF_TIME * seconds_left():
            reason = _NO_TIME
            break
        before, ran = tried_again(), probe(unclimbed, config)
        if ran is None:
            reason = _NO_TIME
            break
        if isinstance(ran, str):
            seen.append(ReadsAtOnce(reads, 0.0, failures=1, reason=f"{reads} reads at once: {ran}"))
            continue
        run = ran.run
        busy = min(1.0, run.wanted_cpus / inputs.limits.cpus)
        again = (tried_again() - before) / max(run.samples, 1.0)
        seen.append(ReadsAtOnce(reads, run.samples / run.seconds, busy, again))
    if not seen:
        return inputs
    capacity, known_source = capacity_of(seen, most, reason), inputs.source
    if known_source and capacity.end is ClimbEnd.TIME and capacity.good_reads <= known_source.good_reads:
        return inputs
    return with_source(inputs, capacity)


def with_source(inputs: ModelInputs, source: SourceCapacity) -> ModelInputs:
    """Return the model inputs with a source of measured capacity."""
    inputs = dataclasses.replace(inputs, source=source)
    if not source.is_exhausted or not source.reads:
        return inputs
    each = max(inputs.cost.output_bytes, 1.0)
    return dataclasses.replace(inputs, read_bytes=each, storage=bandwidth(source, each))
