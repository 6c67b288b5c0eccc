"""Iterator for the user's loop: one epoch in the drawn order, independent of which loader reads its batches."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.core.errors import one_line
from plumb.instrument.failure_report import is_plumbs, say
from plumb.runtime.epoch.epoch_order import EpochOrder
from plumb.runtime.epoch.last_resort import error_in_users_worker, rest_of_epoch
from plumb.runtime.epoch.loader_run import LoaderRun
from plumb.runtime.epoch.segment import LoaderSegment, SegmentOptions
from plumb.runtime.epoch.torchs_iterator import TorchsIterator
from plumb.runtime.epoch.worker_seeds import WorkerDraws
from plumb.runtime.epoch_start import draw_worker_seed
from plumb.runtime.guards.guard import Finding, Verdict
from plumb.runtime.guards.worker_watch import NotForWorkersError
from plumb.runtime.run_clock import RunClock

# A switch to another loader isn't worth its start if fewer batches are left than this, beyond those that both prefetch.
_WORTH_A_SWITCH = 8
# Difference between the worker seeds of successive segments.
_SEED_STEP = 1_000_003
# Part of torch's message for an error that a worker has sent.
_IN_WORKER = "in DataLoader worker process"
# Workers are given up if they deliver nothing for so long, and for this multiple of the slowest batch's time.
PATIENCE_SECONDS, PATIENCE_BATCHES = 60.0, 10.0


class EpochIterator(TorchsIterator):
    """One epoch. Samples, their order, and the user's exceptions are those of the user's own loader.

    If another configuration raises or breaks on a batch, the user's own configuration reads it again, and that result
    counts. `template` is a loader with the parts of the user's, and with the user's own configuration, because the
    loader itself may be gone before the epoch ends. For other code, the iterator looks like one of torch's.
    """

    def __init__(self, template: DataLoader[Any], run: LoaderRun, order: EpochOrder, seed_state: Any) -> None:
        # Torch's constructor would call the sampler, and draw a seed.
        self._run = run
        self.renew(template, order, seed_state)

    def renew(self, template: DataLoader[Any], order: EpochOrder, seed_state: Any) -> None:
        """Begin another epoch, as torch's iterator with persistent workers does."""
        self.order = order
        self.seed_state = seed_state
        self.is_over = False
        self._template = template
        self._segments = deque()
        self._next_segment: LoaderSegment | None = None
        self._made = 0
        self._suspect: tuple[Config, str] | None = None
        self._users_error = 0
        self._at_hand: tuple[Any] | None = None
        self._rest: Iterator[Any] | None = None
        self._has_begun = False
        self._renewed_at = -1
        seeds = torch.Generator()
        seeds.set_state(seed_state)
        self._base_seed = draw_worker_seed(seeds)
        self._draws = WorkerDraws(self._base_seed)
        self._look_like_torch_s()
        self._run.turn += 1
        self._turn = self._run.turn
        if self._run.own.num_workers:
            self._begin_epoch()

    # ---- the loop's side

    def __next__(self) -> Any:
        # The inner iterator of torch makes the record for a profiler.
        clock = self._run.clock
        batch = self._next_data() if clock is None or clock.is_over else self._measured_batch(clock)
        self._num_yielded += 1
        return batch

    def _measured_batch(self, clock: RunClock) -> Any:
        """Return the next batch, and pass its time to the clock in the latest epoch."""
        asked = time.perf_counter()
        try:
            batch = self._next_data()
        except StopIteration:
            if self._is_latest:
                clock.epoch_ended(asked, time.perf_counter())
            raise
        if self._is_latest:
            reads = self._segments[0] if len(self._segments) == 1 and self._next_segment is None else None
            is_own = None if reads is None else reads.is_users
            clock.delivered(asked, time.perf_counter(), is_own, reads is not None and reads.is_steady)
        return batch

    def _next_data(self) -> Any:
        if self._rest is not None:
            return next(self._rest)
        if self.is_over:
            raise StopIteration
        try:
            batch = self._steered_batch()
            # Only the loop may refer to the batch, because references to shared memory are counted.
            self._at_hand = None
            return batch
        except StopIteration:
            raise
        except Exception as error:
            if not self._is_plumbs(error):
                raise
            failure = error
        return self._after_failure(failure)

    def _is_plumbs(self, error: Exception) -> bool:
        return id(error) != self._users_error and is_plumbs(error)

    def _after_failure(self, error: Exception) -> Any:
        """Return the batch that plumb's own code failed to deliver, by the user's configuration, which continues."""
        self._run.is_plain = True
        self._suspect = self._next_segment = None
        with contextlib.suppress(Exception):
            self._let_go()
        self._segments.clear()
        at_hand, self._at_hand = self._at_hand, None
        # The failure may have come after the batch was read and counted.
        batch = at_hand[0] if at_hand is not None else self._batch_after_failure()
        say(error, "everything is read as the script has it from here on")
        return batch

    def _batch_after_failure(self) -> Any:
        try:
            if not self._has_next():
                self._end()
            return self._batch()[0]
        except Exception as again:
            if not self._is_plumbs(again) or isinstance(again, StopIteration):
                raise
        self.order.take_back()
        self._rest = rest_of_epoch(self._template, self._run.own, self.order)
        return next(self._rest)

    def _steered_batch(self) -> Any:
        if not self._has_begun:
            self._begin_epoch()
        self._heed(self._run.guards.batch_wanted(self._template))
        if self._run.is_plain:
            # Another epoch of the same loader may have found the reason.
            self._read_plainly()
        return self._batch_wanted()

    def _batch_wanted(self) -> Any:
        """Return the next batch, or end the epoch."""
        if not self._has_next():
            self._end()
        if self._is_latest:
            self._switch()
        return self._batch()[0]

    @property
    def _is_latest(self) -> bool:
        return self._turn == self._run.turn

    def _has_next(self) -> bool:
        has_next, order = self.order.has_next, self.order
        if order.why_no_foresight and (order.is_off or not self._run.own.num_workers) and self._reads_ahead:
            self._go_plain(order.why_no_foresight)
        if has_next and not self._segments:
            self._start()
        return has_next

    @property
    def _reads_ahead(self) -> bool:
        """True if workers are running, or wanted, that the user's own configuration doesn't have."""
        configs = [segment.config for segment in self._segments] or [self._run.wanted]
        return not self._run.is_plain and any(not self._run.is_users(config) for config in configs)

    def _end(self) -> NoReturn:
        """End the epoch and its workers, except those that are kept."""
        self._close_all(but=self._run.kept)
        raise StopIteration

    def _close_all(self, but: LoaderSegment | None = None) -> None:
        self.is_over = True
        self._drop_next()
        while self._segments:
            segment = self._segments.popleft()
            if segment is not but:
                segment.close()

    def _drop_next(self) -> None:
        if self._next_segment is not None:
            self._next_segment.close()
            self._next_segment = None

    # ---- one batch

    def _batch(self) -> tuple[Any, Any, LoaderSegment]:
        """Return the next batch, its indices, and the segment that read it."""
        while True:
            while not self._segments[0].is_at_work:
                self._segments.popleft().close()
            segment, indices, reason, finding = self._segments[0], self.order.next_indices, None, None
            is_of_sample = False
            try:
                batch = self._read(segment)
            except Exception as error:
                if segment.is_users and is_plumbs(error):
                    raise
                if segment.is_users:
                    # The error is the user's own, so the configuration that met it first was not to blame.
                    self._suspect = None
                    # Stores the id only: the error refers back here, and workers would be left to the cycle collector.
                    self._users_error = id(error)
                    self.order.deliver()
                    raise
                if isinstance(error, NotForWorkersError):
                    finding = Finding(Verdict.PLAIN, error.reason)
                else:
                    reason, is_of_sample = segment.failed(error), _IN_WORKER in str(error)
                # A dataset may raise the same object again, and the next traceback would be appended to this one.
                error.__traceback__ = None
            else:
                batch, finding = self._run.guards.batch_read(self.order.delivered, indices, batch)
            # Outside the handler, because workers forked inside would report its error along with their own.
            if reason is not None:
                users_error = self._users_own(segment, indices) if is_of_sample else None
                if users_error is not None:
                    if not self._run.own.persistent_workers:
                        # The user's own workers would be new ones in the next epoch, and might fail again.
                        self._run.kept = None
                    self._users_error = id(users_error)
                    self.order.deliver()
                    raise users_error
                self._fall_back(segment.config, reason)
                continue
            self._heed(finding)
            if self._segments[0] is not segment and not segment.is_users:
                # The batch was dropped, if there was one.
                continue
            self.order.deliver()
            self._at_hand = (batch,)
            if self._suspect is not None:
                self._run.steering.failed(*self._suspect)
                self._suspect = None
            return batch, indices, segment

    def _read(self, segment: LoaderSegment) -> Any:
        begun = time.perf_counter()
        self._run.reads_here = not segment.config.num_workers
        in_place_of_workers = self._run.own.num_workers > 0 and not segment.config.num_workers
        with self._draws.in_use() if in_place_of_workers else contextlib.nullcontext():
            batch = next(segment)
        self._run.slowest_seconds = max(self._run.slowest_seconds, time.perf_counter() - begun)
        return batch

    def _users_own(self, segment: LoaderSegment, indices: Any) -> Exception | None:
        """Return the error that a user's worker raises for a batch that one of the plan's failed to make, or None.

        The plan's workers then continue, as the user's would, because workers started later would have the loop's
        changes.
        """
        if not self._run.own.num_workers or segment.has_dead_workers:
            return None
        return error_in_users_worker(self._template, self._run.own, indices)

    def _fall_back(self, config: Config, reason: str) -> None:
        """Read all undelivered batches again by the user's own configuration."""
        self._suspect = self._suspect or (config, reason)
        self._let_go()
        self._begin(self._segment(self._run.own))

    def _let_go(self) -> None:
        """End all segments; batches that were read but not delivered are lost."""
        self._drop_next()
        if self._run.kept in self._segments:
            self._run.kept = None
        while self._segments:
            self._segments.popleft().close()
        self.order.take_back()

    # ---- what guards find

    def _heed(self, finding: Finding | None) -> None:
        """Continue as a guard's finding says."""
        if finding is None or finding.verdict == Verdict.GO_ON:
            return
        if self._run.running is not None:
            self._run.running.note_change(self._template.dataset)
        if finding.verdict == Verdict.PLAIN:
            self._go_plain(finding.reason)
        elif not self._segments:
            self._renew_kept(finding.reason)
        elif self._renewed_at == self.order.delivered:
            # New workers led to the same finding for the same batch, so more of them would not end it.
            self._go_plain(finding.reason)
        elif not self._segments[0].is_users:
            self._renewed_at = self.order.delivered
            self._let_go()
            self._run.steering.renewed(finding.reason)
            self._start()

    def _go_plain(self, reason: str) -> None:
        """Read by the user's own configuration from now on."""
        self._run.stay_plain(reason)
        self._read_plainly()

    def _read_plainly(self) -> None:
        self._suspect = None
        if not self._segments:
            self._renew_kept(None)
        elif any(not segment.is_users for segment in (*self._segments, *filter(None, [self._next_segment]))):
            self._let_go()
            self._begin(self._segment(self._run.own))

    def _renew_kept(self, reason: str | None) -> None:
        """End the workers kept for this epoch if there is a `reason`, or if they are not the user's own."""
        kept = self._run.kept if self._is_latest else None
        if kept is not None and (reason is not None or not kept.is_users):
            self._run.kept = None
            if reason is not None and kept.workers:
                self._run.steering.renewed(reason)
            kept.close()

    # ---- from one loader to the next

    def _begin_epoch(self) -> None:
        """Begin the epoch; if the user has no workers, batches are read only from the first request on."""
        self._has_begun = True
        run = self._run
        self._heed(run.guards.epoch_begins(self._template))
        if run.own.num_workers:
            self._start()

    def _start(self) -> None:
        """Start reading by the wanted configuration, with the workers of an earlier epoch if they were kept."""
        run, wanted = self._run, self._run.wanted
        kept, run.kept = run.kept, None
        if kept is not None:
            if kept.config.runs_like(wanted) and kept.may_go_on(self._template):
                kept.config = wanted
                self._made = 1
                if self._began(kept):
                    return
            else:
                kept.close()
        if not run.is_users(wanted) and self._began(self._segment(wanted)):
            return
        self._begin(self._segment(run.own))

    def _began(self, segment: LoaderSegment) -> bool:
        """Try to begin with a segment; return whether that worked. Errors are raised only for the user's own one."""
        try:
            self._begin(segment)
            return True
        except Exception as error:
            if segment.is_users:
                raise
            reason = one_line(error)
        self._run.steering.failed(segment.config, reason)
        self._let_go()
        return False

    def _begin(self, segment: LoaderSegment) -> None:
        self._segments.append(segment)
        segment.open(self.order)
        self._keep(segment)

    def _keep(self, segment: LoaderSegment) -> None:
        if self._is_latest:
            self._run.kept = segment if segment.config.persistent_workers else None

    def _switch(self) -> None:
        """Take the next step towards the wanted configuration."""
        if self._next_segment is not None:
            self._take_over(self._next_segment)
        elif len(self._segments) == 1 and self._is_due():
            self._next_segment = self._segment(self._run.wanted)
            self._next_segment.prepare()

    def _is_due(self) -> bool:
        wanted, current = self._run.wanted, self._segments[0]
        if wanted.runs_like(current.config):
            if current.config != wanted:
                current.config = wanted
                self._keep(current)
            return False
        left = self.order.batches_left
        in_flight = wanted.batches_in_flight + current.config.batches_in_flight
        return self._suspect is None and (left is None or left >= in_flight + _WORTH_A_SWITCH)

    def _take_over(self, segment: LoaderSegment) -> None:
        failure = segment.failure
        if failure is not None:
            self._next_segment = None
            segment.close()
            self._run.steering.failed(segment.config, failure)
        elif segment.is_ready:
            self._next_segment = None
            self._segments[-1].give_over()
            try:
                self._begin(segment)
            except Exception as error:
                failure = one_line(error)
            if failure is not None:
                self._fall_back(segment.config, failure)

    def _segment(self, config: Config) -> LoaderSegment:
        """Return a segment on `config`; the epoch's first one has the worker seed that torch would have drawn."""
        run, seeds = self._run, torch.Generator()
        seeds.set_state(self.seed_state)
        if self._made:
            seeds.manual_seed((int(self._base_seed) + self._made * _SEED_STEP) % 2**63)
        self._made += 1
        if run.is_users(config):
            options = SegmentOptions(config, may_last=run.wanted.persistent_workers)
            return LoaderSegment(self._template, options, self.order, seeds)
        if run.checks is not None:
            run.checks.segment_begins(config)
        stores = (segment.filled_store(config, self._template.dataset) for segment in self._segments)
        options = SegmentOptions(
            config,
            is_users=False,
            rewrites=run.steering.rewrites,
            stored=next((store for store in stores if store is not None), None),
            running=run.running,
            guards=run.guards,
            is_checked=run.checks is not None,
            patience_seconds=max(run.patience_seconds or PATIENCE_SECONDS, PATIENCE_BATCHES * run.slowest_seconds),
        )
        return LoaderSegment(self._template, options, self.order, seeds)
