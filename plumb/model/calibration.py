"""Calibration of the model by short runs of a real loader: how concurrent processes slow each other down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from plumb.core.plan import SampleCost

# Usually the most that workers beyond the number of cores cost, as a share (analysis/accuracy.py).
USUAL_OVERSUBSCRIPTION = 0.1
# From this busy share of a run on, the main process is taken to have held up the workers.
_BUSY = 0.8
# Batch times whose standard deviation exceeds this share of their mean come from a source with rare slow samples.
_ERRATIC = 0.25
# Values outside this range are an accident of the run and say nothing of the host.
_CROWDING_AT_LEAST, _CROWDING_AT_MOST = -0.3, 3.0


@dataclass(frozen=True)
class Calibration:
    """Growth of a sample's CPU time when other processes work too, and the main process's cost of receiving a batch.

    - `crowding`: the share by which a sample's CPU seconds grow from one busy core to all. Memory bandwidth and sibling
      hyperthreads make it positive; it is negative if continuous work is cheaper than intermittent work.
    - `crowded_cpu_seconds`: CPU seconds, when running alone, of the sample with which `crowding` was measured; see
      `of`. 0 if all samples are crowded alike.
    - `oversubscription`: the largest further share of growth, when many more processes compute than there are cores.
    - `hand_over_seconds_per_batch` and `hand_over_seconds_per_byte`: CPU seconds of the main process.
    """

    crowding: float = 0.0
    oversubscription: float = USUAL_OVERSUBSCRIPTION
    hand_over_seconds_per_batch: float = 0.0
    hand_over_seconds_per_byte: float = 0.0
    crowded_cpu_seconds: float = 0.0

    def of(self, cpu_seconds: float) -> Calibration:
        """Return the calibration for samples that take `cpu_seconds` CPU seconds when running alone.

        Samples of one dataset bring about the same data through caches and memory. A sample that takes longer is slowed
        down in a smaller part of its time, and by processes that use less bandwidth at a time. So crowding falls with
        the square.
        """
        if not 0.0 < self.crowded_cpu_seconds < cpu_seconds:
            return self
        return replace(self, crowding=self.crowding * (self.crowded_cpu_seconds / cpu_seconds) ** 2)

    def hand_over_seconds(self, batch_bytes: float) -> float:
        """Return the main process's CPU seconds to receive one batch of `batch_bytes` bytes."""
        return self.hand_over_seconds_per_batch + self.hand_over_seconds_per_byte * batch_bytes

    def slow_down(self, processes: Any, cores: float) -> Any:
        """Return the factor on a sample's CPU seconds when `processes` processes compute on `cores` cores.

        It is 1 for a single process and grows linearly up to the number of cores. Beyond, it grows towards its limit in
        proportion to the share of processes that can't run.

        Args:
            processes: Number of processes, at least 1, or an array of numbers.
            cores: Number of cores; infinity gives 1 for any number of processes.

        """
        if math.isinf(cores):
            return np.ones_like(processes, dtype=float)
        # On one core or less, processes crowd each other as on full cores, so that a second core never slows them down.
        beside = np.maximum(np.asarray(processes, dtype=float) - 1.0, 0.0)
        crowded = 1.0 + self.crowding * np.minimum(beside / max(cores - 1.0, 1e-9), 1.0)
        standing = np.maximum(0.0, 1.0 - cores / np.asarray(processes, dtype=float))
        return crowded * (1.0 + self.oversubscription * standing)


@dataclass(frozen=True)
class ProbeRun:
    """A short run of a real loader: CPU seconds of its workers and of the main process for `samples` samples.

    `seconds` excludes the time in which workers queued for a core, which is `queued_seconds` for each of them.
    """

    num_workers: int
    samples: float
    seconds: float
    worker_cpu_seconds: float
    main_cpu_seconds: float
    queued_seconds: float = 0.0

    @property
    def used_cpus(self) -> float:
        """Average number of CPUs that workers and the main process used."""
        return (self.worker_cpu_seconds + self.main_cpu_seconds) / (self.seconds + self.queued_seconds)

    @property
    def wanted_cpus(self) -> float:
        """Average number of CPUs that they would have used if no worker had queued."""
        queued = self.num_workers * self.queued_seconds
        return self.used_cpus + queued / (self.seconds + self.queued_seconds)

    @property
    def seconds_in_worker(self) -> float:
        """A worker's wall seconds per sample."""
        return self.num_workers * self.seconds / self.samples

    @property
    def cpu_seconds_in_worker(self) -> float:
        """A worker's CPU seconds per sample."""
        return self.worker_cpu_seconds / self.samples

    @property
    def idle_seconds_in_worker(self) -> float:
        """A worker's wall seconds per sample beyond its CPU seconds."""
        return max(0.0, self.seconds_in_worker - self.cpu_seconds_in_worker)

    @property
    def overlap(self) -> float:
        """Ratio of a worker's CPU seconds to its wall seconds, at least 1.

        It exceeds 1 because a separate thread sends one batch while the next is made.
        """
        return max(1.0, self.cpu_seconds_in_worker / self.seconds_in_worker)

    @property
    def main_is_busy(self) -> bool:
        """True if the main process held the workers up, so that part of their time was not spent on samples."""
        return self.main_cpu_seconds > _BUSY * self.seconds


def without_queueing(seconds: float, workers: int, worker_queued_seconds: float) -> float:
    """Return a run's seconds without those in which its workers were ready and other processes had the cores."""
    return max(seconds - worker_queued_seconds / workers, 1e-9)


def spread_of(batch_seconds: Sequence[float]) -> float:
    """Return the standard deviation of batch times as a share of their mean; 0 for fewer than two."""
    return float(np.std(batch_seconds, ddof=1) / np.mean(batch_seconds)) if len(batch_seconds) > 1 else 0.0


def with_waiting(cost: SampleCost, one: ProbeRun, many: ProbeRun, spread: float) -> SampleCost:
    """Return a sample's cost in the main process, with its waiting time corrected by two runs if they allow it.

    Args:
        cost: Cost measured in the main process.
        one: Run with one worker.
        many: Run with many workers.
        spread: Standard deviation of batch times as a share of their mean.

    """
    waiting = _waiting(cost, one, many, spread)
    if waiting is None:
        return cost
    return replace(cost, wall_seconds=cost.cpu_seconds + waiting, wait_seconds=waiting)


def cost_in_worker(cost: SampleCost, one: ProbeRun, many: ProbeRun | None = None, spread: float = 0.0) -> SampleCost:
    """Return a sample's cost in a worker, from its cost in the main process and runs of a loader.

    Args:
        cost: Cost measured in the main process.
        one: Run with as few workers as possible.
        many: Run with many workers, which corrects the waiting time as in `with_waiting`; None if there was none.
        spread: Standard deviation of batch times as a share of their mean.

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
    """Return a sample's waiting seconds: the median of the main process's measurement and of two runs.

    A host that is briefly busy makes a measurement longer, and a measurement too short to meet a rare slow sample is
    too low; the median drops either. If batches mostly wait and differ much, rare slow samples dominate and every
    measurement has met some: then the mean, weighted by samples, counts. The main process has seen about as many
    samples as one worker. Returns None if there is no second run, or if a busy main process held up a run.
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
    """Return the calibration of the handover, from a run with one worker.

    The cost of freeing a batch's memory grows with its bytes. The rest of the main process's time for a batch is
    independent of its size.

    Args:
        one: Run with one worker.
        samples_per_batch: Samples per batch of the run.
        batch_bytes: Bytes per batch of the run.
        drop_seconds_per_byte: CPU seconds per byte to free a batch's memory.

    """
    hand_over = one.main_cpu_seconds / one.samples * samples_per_batch
    for_bytes = min(drop_seconds_per_byte * batch_bytes, hand_over)
    return Calibration(
        hand_over_seconds_per_batch=hand_over - for_bytes,
        hand_over_seconds_per_byte=for_bytes / batch_bytes if batch_bytes else 0.0,
    )


def crowded(calibration: Calibration, many: ProbeRun, alone_cpu_seconds: float, cores: float) -> Calibration:
    """Return the calibration with `crowding` measured by a run with about as many workers as cores.

    A run with fewer workers than cores is extrapolated linearly.

    Args:
        calibration: Calibration to complete.
        many: Run with many workers; with fewer than two, or on one core, the calibration stays unchanged.
        alone_cpu_seconds: CPU seconds of a sample of the same kind in a single worker.
        cores: Number of cores.

    """
    if many.num_workers < 2 or alone_cpu_seconds <= 0 or cores <= 1:
        return calibration
    measured = many.cpu_seconds_in_worker / alone_cpu_seconds - 1.0
    crowding = measured * (cores - 1) / (many.num_workers - 1)
    return replace(
        calibration,
        crowding=min(max(crowding, _CROWDING_AT_LEAST), _CROWDING_AT_MOST),
        crowded_cpu_seconds=alone_cpu_seconds,
    )
