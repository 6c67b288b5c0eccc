"""Guard of a running trial: ends the trial before the host runs out of memory or files, and if a worker is stuck.

The guard is a thread, because the main thread waits for the workers meanwhile. It ends a trial by killing the workers:
torch then raises in the main thread, where the guard's own reason replaces torch's error. If the main process loads the
batches itself, the limits are checked between two batches.

No guard reads anything while a worker is being forked, because a lock that the guard's thread holds at that moment
would stay locked in the worker for ever.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence

from plumb.core.errors import PlumbError
from plumb.host import Limits
from plumb.host.headroom import Headroom, HeadroomReader
from plumb.host.limits import ASKED_FOR
from plumb.host.process_control import end_trees
from plumb.host.process_memory import script_bytes
from plumb.instrument import stack_dump
from plumb.tuning.measure.trial_worker import Stacks

_LOOK_SECONDS, _COUNT_SECONDS = 0.1, 1.0
# If free memory falls, the next check comes after this share of the time that it would last, but not sooner than the
# second value.
_SOONER_SHARE, _SOONEST_SECONDS = 0.25, 0.01
# A trial must leave this share of the whole, within bounds, but never more than half of what was free at its start.
_SHARE_LEFT = 0.04
_BYTES_LEFT = {"memory": (64 * 2**20, 2**30), "shared memory": (2**19, 64 * 2**20)}
_FILES_LEFT = 4.0
# Memory may continue to fall for one interval between checks while a trial is ended, but by no more than this.
_FALL_BYTES_AT_MOST = 256 * 2**20
# A worker is stuck if it delivers nothing for this multiple of its longest wait and for at least this many seconds.
_USUAL_TIMES, _SILENT_SECONDS = 20.0, 10.0

_forking = threading.Lock()


class TrialEndedError(PlumbError):
    """Reason why the guard ended a trial; `limit` is the limit that was reached, None for a stuck worker."""

    def __init__(self, message: str, limit: str | None) -> None:
        super().__init__(message)
        self.limit = limit


class TrialGuard:
    """Thread that watches one loader from before its workers start until `stop`.

    `limits` are those of the configuration. A loader is stuck if it delivers nothing for `patience_seconds` before its
    first batch, or for a multiple of its longest wait afterwards. `ended` is the reason if the trial was ended, else
    None.
    """

    def __init__(self, limits: Limits, patience_seconds: float) -> None:
        self._limits = limits
        self._patience_seconds = patience_seconds
        self._rooms = HeadroomReader()
        self._stacks = Stacks()
        self._workers: tuple[int, ...] = ()
        self._looked = self._counted = -math.inf
        self._pause = _LOOK_SECONDS
        self._at_first: dict[str, float] = {}
        self._before: dict[str, tuple[float, float]] = {}
        self.ended: TrialEndedError | None = self._over()
        self._waiting_since: float | None = None
        self._longest_wait: float | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def stacks_file(self) -> str | None:
        """Path of the file to which workers write their stacks; None without one."""
        return self._stacks.path

    @contextlib.contextmanager
    def forking(self) -> Iterator[None]:
        """Keep all guards from reading anything while workers start, which would inherit their locks locked."""
        with _forking:
            yield

    def watch(self, workers: Sequence[int]) -> None:
        """Watch these processes as the trial's workers from now on."""
        self._workers = tuple(workers)
        if self._thread is None and workers:
            self._thread = threading.Thread(target=self._patrol, name="plumb-guard", daemon=True)
            self._thread.start()

    def waiting(self) -> None:
        """Record that the loader is being asked for a batch."""
        self._waiting_since = time.monotonic()

    def note_batch(self) -> None:
        """Record that the loader delivered a batch. Raise TrialEndedError if the trial was ended."""
        since, self._waiting_since = self._waiting_since, None
        now = time.monotonic()
        if since is not None and (self._longest_wait is not None or not self._workers):
            self._longest_wait = max(self._longest_wait or 0.0, now - since)
        elif since is not None:
            # The first wait includes the start of the workers, so it is no usual wait.
            self._longest_wait = 0.0
        if self._thread is None and now - self._looked > _LOOK_SECONDS:
            self.ended = self.ended or self._over()
        self.check()

    def check(self) -> None:
        """Raise TrialEndedError if the trial was ended, in place of the errors that the death of its workers causes."""
        if self.ended is not None:
            raise self.ended from None

    def stop(self) -> None:
        """Stop the watch; no process is killed afterwards."""
        self._stop.set()
        while self._thread is not None and self._thread.is_alive():
            # Torch's SIGCHLD handler raises in the main thread, at any point, when a worker was killed.
            with contextlib.nullcontext() if self.ended is None else contextlib.suppress(RuntimeError):
                self._thread.join()
        self._stacks.close()

    def _patrol(self) -> None:
        while not self._stop.wait(self._pause):
            with _forking:
                reason = self._over() or self._stuck()
            if reason is not None:
                self.ended = reason
                end_trees(self._workers)
                return

    def _over(self) -> TrialEndedError | None:
        self._looked = time.monotonic()
        lasts = math.inf
        for room in self._look():
            falling = self._falling(room)
            if room.left < self._must_be_left(room, falling):
                return TrialEndedError(f"only {room} left", room.limit)
            lasts = min(lasts, room.left / falling if falling else math.inf)
        self._pause = min(max(_SOONER_SHARE * lasts, _SOONEST_SECONDS), _LOOK_SECONDS)
        return None

    def _falling(self, room: Headroom) -> float:
        """Return by how much a resource shrank per second since the last check: bytes of memory, or files."""
        before, when = self._before.get(room.source, (room.left, -math.inf))
        self._before[room.source] = (room.left, self._looked)
        return max(0.0, before - room.left) / max(self._looked - when, 1e-3)

    def _look(self) -> list[Headroom]:
        pids = (os.getpid(), *self._workers)
        rooms = [self._rooms.memory(), self._rooms.shm(), self._rooms.open_files(pids, self._limits.open_files)]
        asked_for = self._limits.sources.get("memory_bytes") == ASKED_FOR
        if asked_for and self._looked - self._counted > _COUNT_SECONDS:
            # No kernel limit enforces the user's own limit, and counting the bytes of the script's processes takes a
            # while.
            self._counted = self._looked
            most = self._limits.memory_bytes
            rooms.append(Headroom("memory", max(0.0, most - script_bytes()), most, ASKED_FOR))
        return [room for room in rooms if room is not None]

    def _must_be_left(self, room: Headroom, falling: float) -> float:
        at_first = self._at_first.setdefault(room.source, room.left)
        if room.limit == "open files":
            return min(_FILES_LEFT, at_first / 2)
        least, most = _BYTES_LEFT[room.limit]
        left = min(max(_SHARE_LEFT * room.size, least), most)
        if room.limit == "memory":
            left += min(falling * _LOOK_SECONDS, _FALL_BYTES_AT_MOST)
        return min(left, at_first / 2)

    def _stuck(self) -> TrialEndedError | None:
        since, usual = self._waiting_since, self._longest_wait
        if since is None:
            return None
        silent = time.monotonic() - since
        patience = self._patience_seconds if usual is None else max(_SILENT_SECONDS, _USUAL_TIMES * usual)
        if silent <= patience:
            return None
        places = (stack_dump.calls(self._stacks.of(pid)) for pid in self._workers)
        where = next((f": {calls[0]}" for calls in places if calls), "")
        what = f"no batch within {silent:.0f} s" if usual is None else f"a worker is stuck, silent for {silent:.0f} s"
        return TrialEndedError(what + where, None)
