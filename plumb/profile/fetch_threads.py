"""What fetch threads gain: batches made by ever more of them, timed as a worker would make them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from plumb.errors import one_line
from plumb.profile.threads import reading_threads

THREADS = (4, 16, 64)
_BATCHES_AT_MOST = 12


@dataclass(frozen=True)
class ThreadsGain:
    """How many times as long as one thread so many take for a batch, and how many times the CPU."""

    threads: int
    time_factor: float
    cpu_factor: float


def timed_threads(
    read: Callable[[Any], Any],
    indices: Sequence[Any],
    samples_per_batch: int,
    alone_seconds: float,
    alone_cpu_seconds: float,
    budget_seconds: float,
) -> tuple[list[ThreadsGain], str]:
    """What 4, 16 and 64 threads gain over one, which takes `alone_*` for a sample, and why no more could, if so.

    Times batches of what `read` gives for `indices`, within about `budget_seconds` in all. A count that would take
    longer than its share, or is larger than a batch, is left out. A batch is done when its slowest sample is, as in a
    worker.
    """
    gains: list[ThreadsGain] = []
    ahead = cycle(indices)
    share = budget_seconds / len(THREADS)
    for count in THREADS:
        if count > samples_per_batch or samples_per_batch * alone_seconds / count >= share / 2:
            continue
        try:
            with reading_threads(count, read, ahead) as pool:
                wall, cpu, batches = 0.0, time.process_time(), 0
                while batches < _BATCHES_AT_MOST and wall < share / 2:
                    begin = time.perf_counter()
                    list(pool.map(read, islice(ahead, samples_per_batch)))
                    wall += time.perf_counter() - begin
                    batches += 1
                cpu = time.process_time() - cpu
        except Exception as error:
            return gains, f"{count} at once fail: {one_line(error)}"
        samples = batches * samples_per_batch
        gains.append(
            ThreadsGain(
                count,
                time_factor=max(wall / samples / max(alone_seconds, 1e-9), 1.0 / count),
                cpu_factor=max(cpu / samples / max(alone_cpu_seconds, 1e-9), 1.0),
            )
        )
    return gains, ""
