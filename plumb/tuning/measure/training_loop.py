"""Measurements of the user's own training loop.

A measurement coroutine is a generator: each `yield` gives a batch to the user's loop and returns when the loop
requests the next one, so the time inside a `yield` is the training step. The value sent back says whether the loop was
interrupted in between, for instance by the start of another epoch.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from plumb.core.errors import LoopEndedError, UsersError
from plumb.core.plan import Rate
from plumb.instrument.failure_report import is_plumbs
from plumb.tracing.device.profile import synchronize
from plumb.tuning.loop_changes import LoopChanges
from plumb.tuning.measure.collective_wait import CollectiveWait
from plumb.tuning.measure.loop_pauses import LoopPauses
from plumb.tuning.measure.throughput import ERRORS_AT_MOST, Chunk, rate_of

if TYPE_CHECKING:
    from plumb.tuning.measure.loop_companions import Companion

T = TypeVar("T")
MeasurementCoroutine = Generator[Any, bool, T]

_CHUNK_SECONDS = 0.2
# A chunk that takes so long ends within a round: what workers hand over at once is little beside it.
_ROUND_SECONDS = 2.0


@dataclass(frozen=True)
class LoopReading:
    """Measurement of the user's loop, in seconds per sample. In `ranks_seconds` of a step it waits for other ranks.

    In `wait_seconds` it gets batches, from all the loaders that it reads.
    """

    chunks: tuple[Chunk, ...]
    wait_seconds: float
    step_seconds: float
    cpu_seconds: float
    ranks_seconds: float

    @property
    def rate(self) -> Rate:
        """Samples per second of the loop, with its interval."""
        return rate_of(self.chunks)

    @property
    def share_in_next(self) -> float:
        """Share of the loop's time that it spends on getting batches, from 0 to 1."""
        seconds = self.wait_seconds + self.step_seconds
        return self.wait_seconds / seconds if seconds > 0 else 0.0


@dataclass(frozen=True)
class ErrorForLoop:
    """An error of the user's dataset that a coroutine yields in place of a batch, to be raised in the loop."""

    error: Exception


class LoopMeter:
    """Meter of the user's loop, until the loop ends or has got `batches_at_most` batches.

    `waits` sums up the time that steps wait for other ranks; `changes`, if set, detects changes of the dataset by the
    loop. `pauses` of the loop are no part of its steps, and are left out. `skips` are the classes of the errors that
    the loop was seen to catch and go on after. `companions` are the other loaders that it reads.
    """

    def __init__(self, samples_per_batch: float, batches_at_most: float, skips: Iterable[type[Exception]] = ()) -> None:
        self.samples_per_batch = samples_per_batch
        self.batches_given = 0
        self.batches_at_most = batches_at_most
        self.has_ended = False
        self.waits = CollectiveWait()
        self.changes: LoopChanges | None = None
        self.pauses = LoopPauses()
        self.companions: list[Companion] = []
        self.skips = tuple(skips)

    @property
    def open(self) -> bool:
        """True if the loop can get another batch."""
        return not self.has_ended and self.batches_given < self.batches_at_most

    def measure(
        self,
        batches: Iterator[Any],
        warm_up: int,
        seconds: float,
        deadline: float,
        share: float,
        waiting_counts: bool = True,
        errors_are_users: bool = True,
        per_round: int = 1,
    ) -> MeasurementCoroutine[LoopReading | None]:
        """Give `batches` to the loop and measure it.

        The device is synchronised at both ends of every chunk.

        Args:
            batches: Batches to give.
            warm_up: Number of batches before the measurement.
            seconds: Length of the measurement, about.
            deadline: End in `time.perf_counter` seconds.
            share: Largest share of the loop's `batches_at_most` to use, except for the last chunk.
            waiting_counts: Whether the time to get a batch counts; without it, the step remains.
            errors_are_users: Whether errors of `batches` would occur without plumb as well: all of them are raised in
                the loop. Otherwise only those that the loop skips.
            per_round: Number of batches that workers deliver at about the same time. Chunks are whole rounds, unless a
                round takes longer than `_ROUND_SECONDS`.

        Returns:
            The measurement; None if the loop ends before anything was measured.
        """
        chunks: list[Chunk] = []
        spent = _LoopSpent()
        until, taken = self.batches_given + share * self.batches_at_most, 0

        def may_go_on() -> bool:
            return self.open and self.batches_given < until and time.perf_counter() <= deadline

        try:
            begun = time.perf_counter()
            for _ in range(warm_up):
                if may_go_on():
                    taken += 1
                    batch = yield from self.next_of(batches, errors_are_users)
                    got = time.perf_counter()
                    if not (yield from self._give(batch)):
                        self.pauses.is_pause(time.perf_counter() - got)
            # If the time was over before all prefetched batches were taken, the rest of them isn't counted either. But
            # steps so slow that this would take longer than the measurement never wait for a loader.
            ahead = warm_up - taken if self.batches_given < until else 0
            if taken and ahead * (time.perf_counter() - begun) > seconds * taken:
                ahead = 0
            while (not chunks or may_go_on()) and self.open and sum(chunk.seconds for chunk in chunks) < seconds:
                chunk = yield from self._chunk(
                    batches, warm_up, ahead, waiting_counts, errors_are_users, spent, per_round
                )
                chunks, ahead = chunks + ([chunk] if chunk else []), 0
        except LoopEndedError:
            self.has_ended = True
        if not chunks:
            return None
        samples = max(spent.batches, 1) * self.samples_per_batch
        return LoopReading(
            tuple(chunks),
            spent.wait_seconds / samples,
            spent.step_seconds / samples,
            spent.cpu_seconds / samples,
            spent.ranks_seconds / samples,
        )

    def next_of(self, batches: Iterator[Any], errors_are_users: bool = True) -> MeasurementCoroutine[Any]:
        """Return the next batch; errors before it are raised in the loop, which may skip them.

        Raises UsersError for other errors, and if too many consecutive batches raise.
        """
        for _ in range(ERRORS_AT_MOST):
            try:
                return next(batches)
            except UsersError as users:
                error = users.error
                if isinstance(error, StopIteration) or not isinstance(error, Exception) or is_plumbs(error):
                    raise
                if not (errors_are_users or isinstance(error, self.skips)):
                    raise
            yield ErrorForLoop(error)
            self.skips = tuple(dict.fromkeys((*self.skips, type(error))))
        raise UsersError(error)

    def _chunk(
        self,
        batches: Iterator[Any],
        warm_up: int,
        made_ahead: int,
        waiting_counts: bool,
        errors_are_users: bool,
        spent: _LoopSpent,
        per_round: int,
    ) -> MeasurementCoroutine[Chunk | None]:
        """Measure one chunk of at least a few tenths of a second; return None if the loop ends before it has a batch.

        The time between two epochs is left out, and so are the loop's pauses and the `warm_up` batches after each of
        them, which may have been made during the pause. So are the first `made_ahead` batches.
        """
        synchronize()
        count, excluded, wait, step, step_cpu, ranks = 0, 0.0, 0.0, 0.0, 0.0, 0.0
        begin = time.perf_counter()
        while self.open:
            asked = time.perf_counter()
            batch = yield from self.next_of(batches, errors_are_users)
            got, cpu, waited = time.perf_counter(), time.process_time(), self.waits.seconds
            waited_beside = self._seconds_beside()
            interrupted = yield from self._give(batch)
            now = time.perf_counter()
            is_pause = not interrupted and self.pauses.is_pause(now - got)
            if is_pause:
                made_ahead = warm_up
            elif made_ahead:
                made_ahead -= 1
            elif not interrupted or not self.open:
                excluded += 0.0 if waiting_counts else got - asked
                seconds, is_round = now - begin - excluded, (count + 1) % per_round == 0
                is_last = seconds >= (_CHUNK_SECONDS if is_round else _ROUND_SECONDS) or not self.open
                if is_last:
                    synchronize()
                    now = time.perf_counter()
                count += 1
                beside = self._seconds_beside() - waited_beside
                wait += got - asked + beside
                step += now - got - beside
                step_cpu += time.process_time() - cpu
                ranks += self.waits.seconds - waited
                if is_last:
                    break
                continue
            excluded += now - asked
        if not count:
            return None
        spent.add(count, wait, step, step_cpu, ranks)
        return Chunk(count * self.samples_per_batch, now - begin - excluded)

    def _seconds_beside(self) -> float:
        """Return the seconds that the loop has waited for its other loaders so far."""
        return sum(companion.wait_seconds for companion in self.companions)

    def _give(self, batch: Any) -> MeasurementCoroutine[bool]:
        self.batches_given += 1
        if self.changes is None:
            return bool((yield batch))
        self.changes.before()
        interrupted = bool((yield batch))
        self.changes.after(interrupted)
        return interrupted


@dataclass
class _LoopSpent:
    batches: int = 0
    wait_seconds: float = 0.0
    step_seconds: float = 0.0
    cpu_seconds: float = 0.0
    ranks_seconds: float = 0.0

    def add(self, batches: int, wait: float, step: float, cpu: float, ranks: float) -> None:
        self.batches += batches
        self.wait_seconds += wait
        self.step_seconds += step
        self.cpu_seconds += cpu
        self.ranks_seconds += ranks
