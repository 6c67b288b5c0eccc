"""Model inputs before any real run of a loader: single batches are made and measured in this process."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import psutil
from torch.utils.data import default_collate

from plumb.core.plan import SampleCost
from plumb.core.sized import length_of
from plumb.host import Limits, malloc
from plumb.host.process_memory import script_bytes
from plumb.host.shared_memory_cost import copy_seconds_per_byte, drop_seconds_per_byte, fresh_seconds_per_byte
from plumb.model.calibration import Calibration
from plumb.model.inputs import USUAL_WORKER_BYTES, AllocatorGain, Footprint, ModelInputs
from plumb.rewrites.find_rewrites import AvailableRewrites
from plumb.tuning.loader_under_test import LoaderUnderTest, cost_of
from plumb.tuning.measure.sample_cost import (
    MeasuredSamples,
    measure_samples,
    measure_samples_without_torch_threads,
    torch_threads_speedup,
)
from plumb.tuning.measure.throughput import IndexStream

# Reused memory is worth a trial if fresh memory takes this share of a sample's time.
_WORTH_REUSING = 0.02
# Smallest cost of both processes to transfer one tensor in memory of its own.
_SECONDS_PER_TENSOR = 1e-4
# Fresh memory is touched for at most this multiple of a batch's bytes: for samples, for their inputs, and for the
# batch. And reused memory leaves at least this share of a sample's CPU seconds.
_TOUCHED, _LEAST_LEFT = 3.0, 0.05
# Smallest divisor of shares, because coarse clocks may measure zero CPU seconds.
_LEAST_SECONDS = 1e-9
# Usual start of a worker; one that isn't forked imports torch again.
_FORK_SECONDS, _SPAWN_SECONDS = 0.05, 2.0
# Longest measurement of reused memory, if a shorter one leaves a sample's cost uncertain.
_LONGEST_WINDOWS = 2.0
# A library's own threads count if they keep this much of a CPU busy.
_POOLED = 0.3


@dataclass
class ObservedLoader:
    """Loader whose batches are measured, for about `window_seconds` each time; `stream` has their indices, if any.

    With `plain`, the gain from reused memory is not measured.
    """

    subject: LoaderUnderTest
    stream: IndexStream | None
    window_seconds: float
    plain: bool = False

    def without_threads_as_waiting(self, seen: MeasuredSamples) -> MeasuredSamples:
        """Return the measurement with the work of other threads counted as computing, not as waiting."""
        if seen.other_cpus < _POOLED:
            return dataclasses.replace(seen, other_cpus=0.0)
        alone = measure_samples_without_torch_threads(
            self.subject.loader, self.stream, self.window_seconds / 2, skips=self.subject.skips
        )
        pooled = alone.other_cpus if alone.other_cpus >= _POOLED else 0.0
        return seen.made_by_threads(pooled, alone.cost.wait_seconds)

    def model_inputs(
        self,
        seen: MeasuredSamples,
        available: AvailableRewrites,
        making_bytes: float,
        limits: Limits,
        may_have_torch_threads: bool,
    ) -> ModelInputs:
        """Return the model inputs that can be measured without workers, where a sample costs as much as here."""
        subject, cost = self.subject, cost_of(seen, available)
        fresh_seconds = fresh_seconds_per_byte() * cost.output_bytes
        footprint = Footprint(
            batch_bytes=seen.largest_batch_bytes,
            tensors_per_batch=math.ceil(cost.output_tensors * subject.samples_per_batch),
            worker_private_bytes=0.0,
            main_bytes=script_bytes(),
            open_files=psutil.Process().num_fds(),
            making_bytes=making_bytes,
        )
        return ModelInputs(
            cost,
            cost,
            footprint,
            limits,
            subject.step.samples_per_second if subject.step else None,
            subject.step.cpu_seconds if subject.step else 0.0,
            subject.epoch_samples,
            samples_per_batch=subject.samples_per_batch,
            batch_seconds=seen.batch_seconds,
            torch_threads_speedup=self._torch_threads_speedup() if may_have_torch_threads else 1.0,
            dataset_samples=length_of(subject.loader.dataset),
            cuts=available.cuts,
            deferrals=available.deferrals,
            threads=available.threads,
            allocator=self._allocator_gain(cost, footprint, available, fresh_seconds),
            fresh_seconds=fresh_seconds,
            read_bytes=cost.output_bytes if available.storage else 0.0,
            storage=available.storage,
            source=available.source,
            step_blocks=subject.step is not None and subject.step.blocks,
            pool_cpus=seen.other_cpus,
        )

    def _torch_threads_speedup(self) -> float:
        """Return how many times as fast samples are made if torch has all cores in a worker."""
        return torch_threads_speedup(self.subject.loader, self.stream, self.window_seconds, self.subject.skips)

    def _allocator_gain(
        self, cost: SampleCost, footprint: Footprint, available: AvailableRewrites, fresh_seconds: float
    ) -> AllocatorGain | None:
        """Return the gain from reused memory; None if it is negligible, even relative to the best other rewrite."""
        if self.plain:
            return None
        per_batch = self.subject.samples_per_batch
        saved = malloc.saved_seconds(int(footprint.batch_bytes)) / per_batch
        handing = footprint.tensors_per_batch * _SECONDS_PER_TENSOR / per_batch
        if max(saved, fresh_seconds + handing) < _WORTH_REUSING * _least_seconds(cost, available):
            return None
        kept = malloc.kept_bytes(int(footprint.batch_bytes))
        with malloc.malloc_reuse(True):
            in_worker = self._cpu_seconds_on_one_thread()
            # This process may get fresh memory for its batches or not, depending on its history, so it is measured.
            is_worth = saved >= _WORTH_REUSING * cost.wall_seconds
            left_share = self._left_share(cost, saved) if is_worth else 1.0
        return AllocatorGain(left_share, kept, in_worker, self._copying_seconds(footprint, cost))

    def _left_share(self, cost: SampleCost, saved_seconds: float) -> float:
        """Return the share of a sample's CPU seconds that remains in reused memory, measured now."""
        again = measure_samples(self.subject.loader, self.stream, *self._look_seconds(), self.subject.skips).cost
        natural = max(cost.cpu_seconds, _LEAST_SECONDS)
        least = max(1.0 - _TOUCHED * saved_seconds / natural, _LEAST_LEFT)
        return min(max((again.wall_seconds - cost.wait_seconds) / natural, least), 1.0)

    def _copying_seconds(self, footprint: Footprint, cost: SampleCost) -> float:
        """Return the seconds that a worker takes to copy a sample to shared memory.

        Torch's own collate writes there directly, but to memory that the caches don't contain any more.
        """
        copying = copy_seconds_per_byte(footprint.batch_bytes)
        saved = copying.cached if self.subject.loader.collate_fn is default_collate else 0.0
        return (copying.uncached - saved) * cost.output_bytes

    def _cpu_seconds_on_one_thread(self) -> float:
        """Return a sample's CPU seconds if torch has no threads of its own, as in a worker."""
        alone = measure_samples_without_torch_threads(
            self.subject.loader, self.stream, *self._look_seconds(), self.subject.skips
        )
        return max(alone.cost.cpu_seconds, _LEAST_SECONDS)

    def _look_seconds(self) -> tuple[float, float]:
        """Return the shortest and the longest duration of a measurement of reused memory."""
        return self.window_seconds / 2, _LONGEST_WINDOWS * self.window_seconds


def _least_seconds(cost: SampleCost, available: AvailableRewrites) -> float:
    """Return a sample's seconds with the store or the deferral that saves most."""
    stored = [
        cut.left.plainly * cost.cpu_seconds + (1.0 - cut.wait_share) * cost.wait_seconds for cut in available.cuts
    ]
    deferred = [deferral.left.plainly * cost.cpu_seconds + cost.wait_seconds for deferral in available.deferrals]
    return min([cost.wall_seconds, *stored, *deferred])


def unprobed(inputs: ModelInputs, start_method: str) -> ModelInputs:
    """Return the model inputs with the usual costs of workers, if there is no time to measure them."""
    footprint, cost = inputs.footprint, inputs.cost
    handing = footprint.tensors_per_batch * _SECONDS_PER_TENSOR / 2
    calibration = Calibration(
        hand_over_seconds_per_batch=handing,
        hand_over_seconds_per_byte=drop_seconds_per_byte(footprint.batch_bytes),
    )
    in_worker = handing / inputs.samples_per_batch + fresh_seconds_per_byte() * cost.output_bytes
    return dataclasses.replace(
        inputs,
        calibration=calibration,
        cost_in_worker=dataclasses.replace(
            cost,
            wall_seconds=cost.wall_seconds + in_worker,
            cpu_seconds=cost.cpu_seconds + in_worker,
            main_seconds=calibration.hand_over_seconds(footprint.batch_bytes) / inputs.samples_per_batch,
        ),
        footprint=dataclasses.replace(footprint, worker_private_bytes=USUAL_WORKER_BYTES),
        start_seconds_in_main=_FORK_SECONDS if start_method == "fork" else 0.0,
        start_seconds_in_worker=0.0 if start_method == "fork" else _SPAWN_SECONDS,
    )
