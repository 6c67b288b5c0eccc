"""What short runs of a real loader teach about a host: how processes that work at once slow each other down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from plumb.plan import SampleCost

# Workers beyond the cores cost this share at most, as a rule (analysis/accuracy.py).
USUAL_OVERSUBSCRIPTION = 0.1
# From this share of its time on, the main process is taken for what a run waited for.
_BUSY = 0.8
# Batch times with such a standard deviation, as a share of their mean, are those of a source with rare slow samples.
_ERRATIC = 0.25
# More than that is an accident of the run, not the host.
_CROWDING_AT_LEAST, _CROWDING_AT_MOST = -0.3, 3.0


@dataclass(frozen=True)
class Calibration:
    """How much more CPU a sample takes when others work too, and what the main process spends on taking over a batch.

    - `crowding`: the share by which a sample's CPU seconds grow from one busy core to all; memory bandwidth and
      siblings of a core make it positive, and it is negative where work in a row is cheaper than work now and then.
    - `crowded_cpu_seconds`: what the sample on which that was seen takes alone; see `of`. 0 where all crowd alike.
    - `oversubscription`: the further share that they grow by at most, when many more processes compute than there are
      cores.
    - `hand_over_seconds_per_batch` and `hand_over_seconds_per_byte`: CPU seconds of the main process.
    """

    crowding: float = 0.0
    oversubscription: float = USUAL_OVERSUBSCRIPTION
    hand_over_seconds_per_batch: float = 0.0
    hand_over_seconds_per_byte: float = 0.0
    crowded_cpu_seconds: float = 0.0

    def of(self, cpu_seconds: float) -> Calibration:
        """The calibration for samples that take so many CPU seconds alone.

        Samples of one dataset bring much the same data through caches and memory. Where one takes longer, it is held up
        in a smaller part of its time, and by others that ask for less at a time: so crowding falls with the square.
        """
        if not 0.0 < self.crowded_cpu_seconds < cpu_seconds:
            return self
        return replace(self, crowding=self.crowding * (self.crowded_cpu_seconds / cpu_seconds) ** 2)

    def hand_over_seconds(self, batch_bytes: float) -> float:
        """CPU seconds of the main process to take over one batch."""
        return self.hand_over_seconds_per_batch + self.hand_over_seconds_per_byte * batch_bytes

    def slow_down(self, processes: Any, cores: float) -> Any:
        """The factor on a sample's CPU seconds when `processes` (a number or an array, at least 1) compute on `cores`.

        1 for one alone. It grows in a straight line up to the cores, and beyond them towards its limit as the share of
        processes that must stand still does.
        """
        if math.isinf(cores):
            return np.ones_like(processes, dtype=float)
        busy = np.minimum(processes, cores)
        crowded = 1.0 + self.crowding * np.maximum(busy - 1.0, 0.0) / max(cores - 1.0, 1e-9)
        standing = np.maximum(0.0, 1.0 - cores / np.asarray(processes, dtype=float))
        return crowded * (1.0 + self.oversubscription * standing)


@dataclass(frozen=True)
class ProbeRun:
    """A short run of a real loader: what its workers and the main process spent on so many samples.

    `seconds` are without those in which workers stood in line for a core, `queued_seconds` of each of them.
    """

    num_workers: int
    samples: float
    seconds: float
    worker_cpu_seconds: float
    main_cpu_seconds: float
    queued_seconds: float = 0.0

    @property
    def used_cpus(self) -> float:
        """The CPUs that workers and the main process had, on average."""
        return (self.worker_cpu_seconds + self.main_cpu_seconds) / (self.seconds + self.queued_seconds)

    @property
    def wanted_cpus(self) -> float:
        """Those that they would have had, if no worker had stood in line."""
        queued = self.num_workers * self.queued_seconds
        return self.used_cpus + queued / (self.seconds + self.queued_seconds)

    @property
    def seconds_in_worker(self) -> float:
        """A worker's time for one sample."""
        return self.num_workers * self.seconds / self.samples

    @property
    def cpu_seconds_in_worker(self) -> float:
        """A worker's CPU seconds for one sample."""
        return self.worker_cpu_seconds / self.samples

    @property
    def idle_seconds_in_worker(self) -> float:
        """What is left of a worker's time for one sample."""
        return max(0.0, self.seconds_in_worker - self.cpu_seconds_in_worker)

    @property
    def overlap(self) -> float:
        """How many times as much CPU as time a worker takes, at least 1: a thread of its own hands over one batch while
        the next is made.
        """
        return max(1.0, self.cpu_seconds_in_worker / self.seconds_in_worker)

    @property
    def main_is_busy(self) -> bool:
        """Whether the main process held the workers up, so that part of their time was not spent on samples."""
        return self.main_cpu_seconds > _BUSY * self.seconds


def without_queueing(seconds: float, workers: int, worker_queued_seconds: float) -> float:
    """The seconds of a run, less those in which its workers were ready and others had the cores."""
    return max(seconds - worker_queued_seconds / workers, 1e-9)


def spread_of(batch_seconds: Sequence[float]) -> float:
    """The standard deviation of batch times as a share of their mean; 0 of fewer than two."""
    return float(np.std(batch_seconds, ddof=1) / np.mean(batch_seconds)) if len(batch_seconds) > 1 else 0.0


def with_waiting(cost: SampleCost, one: ProbeRun, many: ProbeRun, spread: float) -> SampleCost:
    """A sample's cost in the main process, with what it waits as two runs tell, too, where they do.

    `spread` is the standard deviation of batch times as a share of their mean.
    """
    waiting = _waiting(cost, one, many, spread)
    if waiting is None:
        return cost
    return replace(cost, wall_seconds=cost.cpu_seconds + waiting, wait_seconds=waiting)


def cost_in_worker(cost: SampleCost, one: ProbeRun, many: ProbeRun | None = None, spread: float = 0.0) -> SampleCost:
    """What a sample costs in a worker, from its cost in the main process and a run with as few workers as may be.

    Where `many` ran, too, what it waits is told as in `with_waiting`.
    """
    computing, waiting = one.cpu_seconds_in_worker, _waiting(cost, one, many, spread)
    if waiting is None:
        waiting = cost.wait_seconds if one.main_is_busy else one.idle_seconds_in_worker
    return replace(
        cost,
        wall_seconds=computing + waiting,
        cpu_seconds=computing,
        wait_seconds=waiting,
        main_seconds=one.main_cpu_seconds / one.samples,
    )


def _waiting(cost: SampleCost, one: ProbeRun, many: ProbeRun | None, spread: float) -> float | None:
    """What a sample waits, as the middle of three readings: in the main process, and in two runs.

    A host that is busy with something else for a moment makes a reading longer, and one that was too short to meet a
    rare slow sample is less than the rest. Where batches wait, and differ much, such samples are what it is about, and
    every reading has met some of them: their mean counts, over the samples of each. The main process has seen about as
    many as one worker. Runs that a busy main process held up, and one alone, tell nothing: None.
    """
    if many is None or one.main_is_busy or many.main_is_busy:
        return None
    readings = [cost.wait_seconds, one.idle_seconds_in_worker, many.idle_seconds_in_worker]
    if spread > _ERRATIC and min(readings) > cost.cpu_seconds:
        return float(np.average(readings, weights=[one.samples, one.samples, many.samples]))
    return median(readings)


def calibrated(
    one: ProbeRun, samples_per_batch: float, batch_bytes: float, drop_seconds_per_byte: float
) -> Calibration:
    """What a run with one worker teaches of the hand-over.

    `drop_seconds_per_byte` is what it takes to give a batch's memory back; the rest of what the main process spends on
    a batch is the same for any size.
    """
    hand_over = one.main_cpu_seconds / one.samples * samples_per_batch
    for_bytes = min(drop_seconds_per_byte * batch_bytes, hand_over)
    return Calibration(
        hand_over_seconds_per_batch=hand_over - for_bytes,
        hand_over_seconds_per_byte=for_bytes / batch_bytes if batch_bytes else 0.0,
    )


def crowded(calibration: Calibration, many: ProbeRun, alone_cpu_seconds: float, cores: float) -> Calibration:
    """What a run with about as many workers as cores teaches of how much they hold each other up.

    `alone_cpu_seconds` are those of a sample of the same kind where one worker is alone. From fewer workers than cores
    it is extended in a straight line.
    """
    if many.num_workers < 2 or alone_cpu_seconds <= 0:
        return calibration
    measured = many.cpu_seconds_in_worker / alone_cpu_seconds - 1.0
    crowding = measured * (cores - 1) / (many.num_workers - 1)
    return replace(
        calibration,
        crowding=min(max(crowding, _CROWDING_AT_LEAST), _CROWDING_AT_MOST),
        crowded_cpu_seconds=alone_cpu_seconds,
    )
