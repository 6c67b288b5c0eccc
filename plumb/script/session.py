"""Session of one tuning inside the script's own process.

The session receives the events of the script's loaders. Once it knows which one feeds the training, it takes over at
that loader's next batch and measures through the user's loop, then tunes the other loaders on their own, and ends the
process. Plumb never ends a plain loop over a loader. A loop that the script leaves by itself does end, and later code
may write files: the parent restores what it overwrites (see `plumb.journal`).
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from plumb.core import events
from plumb.core.errors import LoopEndedError, TuningError, UsersError, one_line
from plumb.core.log import logger
from plumb.core.sized import length_of
from plumb.host.process_control import end_children
from plumb.instrument import failure_report
from plumb.instrument.call_site import Site, begins_anew, find_site
from plumb.instrument.construction_trace import construction_of
from plumb.instrument.failure_report import is_plumbs
from plumb.script.lone_batches import LoneBatches
from plumb.script.removed_data import LoaderFiles

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from plumb.script.loader_registry import Registry
    from plumb.script.training_signals import TrainingSignals
    from plumb.tuning.measure.known_loader import KnownLoader, WatchedIterator
    from plumb.tuning.measure.loop_companions import Companion
    from plumb.tuning.measure.training_loop import LoopMeter, MeasurementCoroutine

_log = logger(__name__)

# A loop without signs of training for this share of the budget, and for so long, is tuned as it is.
_PATIENCE, _PATIENCE_SECONDS = 0.15, 3.0
# A training without a loader is watched for this share of the budget, and for so many passes and steps.
_PATIENCE_WITHOUT_LOADER, _SIGNALS_AT_LEAST = 0.05, 6
# A loader that is tuned without the user's loop gets at most this share of the budget.
_SHARE_ALONE = 0.25
# And up to this share beyond the budget if that is spent by then; all of them together at most the second share.
_SHARE_LATE, _SHARE_LATE_AT_MOST = 0.125, 0.25
_SECONDS_WORTH_STARTING = 1.0
_NO_TIME_LEFT = "the budget was spent before a loader was {}; give it more with --budget. Nothing was written"


class Work(Protocol):
    """Work to do with a loader that was taken over; its result is an event for the parent.

    `only_one` says that the first loader is enough. Both methods raise TuningError if the work can't be done, and
    UsersError with the error of the user's dataset.
    """

    only_one: bool

    def run_in_loop(
        self, known: KnownLoader, loader: DataLoader[Any], loop: LoopMeter, own: Iterator[Any], deadline: float
    ) -> MeasurementCoroutine[events.Event]:
        """Do the work through the user's loop, starting with the batches of its `own` loader."""

    def run_alone(self, known: KnownLoader, loader: DataLoader[Any], seconds: float) -> events.Event:
        """Do the work without the user's loop, in about `seconds`."""


class Session:
    """Handler of all loaders' events (an `interception.Handler`), which chooses those to work on and ends the script.

    `make_work` is called when the first loader is taken over, and imports what the work needs. `at_end` is called
    before the session ends the process. With `ends_without_loader`, a script that trains for a while without having
    made a loader is ended. `done_to_loaders` is the word for the work in sentences, "tuned" or "traced".
    """

    def __init__(
        self,
        make_work: Callable[[], Work],
        budget_seconds: float,
        emit: Callable[[events.Event], None],
        at_end: Callable[[], None],
        ends_without_loader: bool = True,
        done_to_loaders: str = "tuned",
    ) -> None:
        self._make_work = make_work
        self._budget_seconds = budget_seconds
        self._emit = emit
        self._at_end = at_end
        self._started = time.perf_counter()
        self._deadline = float("inf")
        self._registry: Registry | None = None
        self._signals: TrainingSignals | None = None
        self._ends_without_loader = ends_without_loader
        self._done_to_loaders = done_to_loaders
        self._trains_since: float | None = None
        self._owner = os.getpid()
        self._running: KnownLoader | None = None
        self._coroutine: MeasurementCoroutine[events.Event] | None = None
        self._loop: LoopMeter | None = None
        self._work: Work | None = None
        self._done: set[str] = set()
        self._has_result = False
        # Reason why the first untuned loader was not tuned; and an error of the script's own that its loop will get.
        self._failed: events.Failed | None = None
        self._users_error: Exception | None = None
        # Classes of the script's errors after which its loop has requested another batch.
        self._skips: dict[type[Exception], None] = {}
        self._files = LoaderFiles()
        self._lone_batches = LoneBatches(done_to_loaders)
        # Loaders of which the user was told that they have no batches.
        self._without_batches: set[str] = set()
        # By loader: the iterator that delivered the latest batch.
        self._latest: dict[str, WatchedIterator] = {}
        self._thread: threading.Thread | None = None

    def listen_for_training(self) -> None:
        """Count the script's training steps from now on; torch must have been imported."""
        if self._signals is None:
            from plumb.script.training_signals import TrainingSignals

            self._signals = TrainingSignals(self._trained)

    def _trained(self) -> None:
        """End a training that makes its batches without a loader, because there is nothing to wait for.

        A script that has made a loader may iterate it later; its parent waits for that.
        """
        if self._registry is not None or not self._ends_without_loader or os.getpid() != self._owner:
            return
        now = time.perf_counter()
        self._trains_since = self._trains_since or now
        assert self._signals is not None
        patience = max(self._budget_seconds * _PATIENCE_WITHOUT_LOADER, _PATIENCE_SECONDS)
        if now - self._trains_since < patience or self._signals.count < _SIGNALS_AT_LEAST:
            return
        from plumb.script.hand_made_batches import in_loop

        text = f"the script trains without a DataLoader: {in_loop(sys._getframe(1))}. Nothing was written"
        self._fail_with(text)

    def ranks_started(self, function: Callable[..., Any], ranks: int, frame: FrameType) -> Callable[..., Any]:
        """End a script that starts its ranks itself before a loader was read; their loaders are invisible here."""
        is_read = self._registry is not None and any(known.epochs_begun for known in self._registry.all())
        if not is_read and self._ends_without_loader and os.getpid() == self._owner:
            self._fail_with(
                f"the script starts its ranks itself ({ranks} by torch.multiprocessing, at {find_site(frame)}), and "
                "loaders of processes that a script starts can't be seen. Let the function that they run take its rank "
                f"from the variables RANK and WORLD_SIZE, and start it by: torchrun --nproc-per-node={ranks} -m plumb "
                "tune SCRIPT. Nothing was written"
            )
        return function

    # ---- what the interception calls

    def constructing(self, site: Site, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the script's arguments unchanged, because tuning only observes."""
        return arguments

    def constructed(self, loader: DataLoader[Any], site: Site) -> None:
        """Register a loader."""
        from plumb.script.loader_registry import Registry

        self._registry = self._registry or Registry()
        self.listen_for_training()
        known, is_new = self._registry.add(loader, site)
        if is_new:
            known.construction = construction_of(loader, sys._getframe(1))
            self._emit(events.LoaderFound(known.name, str(known.site), type(loader.dataset).__name__))

    def iterating(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], plain_loop: bool) -> Iterator[Any]:
        """Return an iterator for the script's loop that reports every batch to the session."""
        from plumb.tuning.measure.known_loader import WatchedIterator

        known = self._registry.iterated(loader) if self._registry else None
        if known is None:
            return start()
        known.latest = loader
        known.epochs_begun += 1
        if known.epochs_begun == 1:
            self._emit(events.LoaderIterated(known.name, str(known.site), time.perf_counter() - self._started))
        # A loop that is being tuned continues with the tuning's batches; an iterator of its own would cost workers.
        companion = self._companion(known)
        is_fed = known is self._running or (companion is not None and companion.is_confirmed)
        batches = iter(()) if is_fed else start()
        return WatchedIterator(known, batches, start, plain_loop, self._next_batch)

    def read_by_dataset(self, loader: DataLoader[Any]) -> None:
        """Leave out a loader that a dataset reads itself, because another order would make another dataset."""
        known = self._registry.of(loader) if self._registry else None
        if known is not None:
            self._done.add(known.name)

    def script_ended(self, error: BaseException | None) -> None:
        """Finish the tuning after the script's main module has ended.

        Returns only if there is nothing to finish, or if `error` is the script's own failure. A script that ends with
        `sys.exit(main())` has not failed if the exit code is None or 0.
        """
        if isinstance(error, SystemExit) and not error.code:
            error = None
        coroutine = None if self._comes_of_users_error(error) else self._coroutine
        if coroutine is None:
            seen = self._loaders_read()
            if error is None and (seen or self._has_result or self._failed is not None):
                self._begin_alone()
                self._tune_alone(seen)
            return
        while (
            inspect.getgeneratorstate(coroutine) == inspect.GEN_RUNNING
            and self._thread is not threading.current_thread()
        ):
            time.sleep(0.05)
        if error is None or self._went_past_the_epoch():
            self._resume(lambda: coroutine.throw(LoopEndedError()))

    def data_goes(self, path: str) -> None:
        """Tune the loaders now that have read only files that the script is about to remove at `path`.

        The script continues afterwards, and its other loaders are tuned as usual. A loop that is being tuned keeps its
        own data.
        """
        if self._registry is None or self._coroutine is not None:
            return
        lost = [known for known in self._loaders_read() if self._reads_only(known, path)]
        if not lost:
            return
        try:
            self._begin_alone()
            self._tune_each(lost)
        except Exception as failure:
            self.fail(failure)

    def _loaders_read(self) -> list[KnownLoader]:
        """Return the loaders that the script has read, and that are not done."""
        known = [] if self._registry is None else self._registry.all()
        return [each for each in known if each.batches_seen and each.name not in self._done]

    def _reads_only(self, known: KnownLoader, path: str) -> bool:
        loader = _alive(known)
        return loader is not None and self._files.lie_in(path, known.name, loader)

    def _comes_of_users_error(self, error: BaseException | None) -> bool:
        """Return whether the script's own samples raised an error, or an error that caused it."""
        while error is not None and error is not self._users_error:
            error = error.__cause__ or error.__context__
        return error is not None

    # ---- batches

    def _next_batch(self, watched: WatchedIterator) -> Any:
        """Return the batch that the loop requests; errors of plumb's own end the tuning, not the script's loop."""
        try:
            return self._batch_for(watched)
        except StopIteration:
            raise
        except Exception as error:
            if not is_plumbs(error) or error is self._users_error:
                raise
            failure = error
        return self.fail(failure)

    def _batch_for(self, watched: WatchedIterator) -> Any:
        known, coroutine = watched.known, self._coroutine
        if self._users_error is not None:
            self._skips[type(self._users_error)] = None
            known.skips = tuple(self._skips)
        if coroutine is not None and known is self._running:
            interrupted, watched.is_fresh = watched.is_fresh, False
            return self._resume(lambda: coroutine.send(interrupted))
        if coroutine is None and known.name not in self._done and self._is_to_be_tuned(watched):
            return self._take_over(watched)
        companion = self._companion(known)
        if companion is not None and companion.is_confirmed:
            return self._beside(companion)
        assert self._signals is not None
        if not watched.batches_given:
            patience = max(self._budget_seconds * _PATIENCE_WITHOUT_LOADER, _PATIENCE_SECONDS)
            why_not = self._lone_batches.reason(watched, self._signals.count, patience)
            if why_not is not None:
                self._fail_with(why_not)
        begin, cpu_before = time.perf_counter(), time.process_time()
        try:
            with self._files.noted(known.name):
                batch = next(watched.batches)
        except StopIteration:
            watched.has_ended = True
            if not known.batches_seen:
                self._warn_of_no_batches(known)
            raise
        except Exception as error:
            self._users_error = error
            raise
        now = time.perf_counter()
        known.note_batch(batch, seconds=now - (watched.handed_over_at or begin))
        watched.batches_given += 1
        watched.handed_over_at, watched.signals_before = now, self._signals.count
        self._latest[known.name] = watched
        if companion is not None and self._loop is not None:
            cpu_seconds = time.process_time() - cpu_before
            companion.note(watched, batch, self._loop.batches_given, now - begin, cpu_seconds)
        return batch

    def _warn_of_no_batches(self, known: KnownLoader) -> None:
        """Say why the loader gives no batches, once and not in each epoch."""
        from plumb.tuning.measure.no_batches import why_no_batches

        if known.name not in self._without_batches and known.latest is not None:
            self._without_batches.add(known.name)
            text = f"{known.name} ({known.site}) has no batches: {why_no_batches(known.latest)}"
            self._emit(events.Warned(text))

    def _companion(self, known: KnownLoader) -> Companion | None:
        """Return a loader's entry as one that the loop reads beside the tuned one; None for any other loader."""
        members = self._loop.companions if self._loop is not None else []
        return next((member for member in members if member.known is known), None)

    def _beside(self, companion: Companion) -> Any:
        try:
            return companion.batch()
        except UsersError as users:
            self._users_error = users.error if isinstance(users.error, Exception) else None
            raise users.error from None

    def _is_to_be_tuned(self, watched: WatchedIterator) -> bool:
        """Return whether this loader's loop trains, or has run so long that it is the script's main activity."""
        assert self._signals is not None
        if watched.signals_before is None:
            return False
        trains = self._signals.count > watched.signals_before
        patience = max(self._budget_seconds * _PATIENCE, _PATIENCE_SECONDS)
        return trains or watched.known.iterating_seconds > patience

    def _take_over(self, watched: WatchedIterator) -> Any:
        from plumb.tuning.measure.loop_companions import beside
        from plumb.tuning.measure.replayed_batches import RestartingIterator
        from plumb.tuning.measure.samples_per_batch import samples_per_batch
        from plumb.tuning.measure.training_loop import LoopMeter

        known = self._running = watched.known
        self._thread = threading.current_thread()
        watched.is_fresh = False
        self._emit(events.TuningStarted(known.name, str(known.site), time.perf_counter() - self._started))
        assert known.latest is not None
        per_batch = samples_per_batch(known.latest, known.samples_per_batch)
        loop = self._loop = LoopMeter(per_batch, _batches_left(watched, begins_anew(sys._getframe(1))), self._skips)
        loop.companions = beside(watched, list(self._latest.values()), _alive)
        work = self._work = self._make_work()
        # Its imports are no part of the budget: on a busy host they take as long as a small one.
        self._deadline = time.perf_counter() + self._budget_seconds
        deadline = self._deadline - self._budget_seconds * self._share_of_the_others(known)
        own = RestartingIterator(watched.batches, watched.start)
        coroutine = self._coroutine = work.run_in_loop(known, known.latest, loop, own, deadline)
        return self._resume(lambda: next(coroutine))

    def _resume(self, step: Callable[[], Any]) -> Any:
        """Run the measurement coroutine to its next batch and return that, or end the script with its plan."""
        from plumb.tuning.measure.loop_companions import Companions
        from plumb.tuning.measure.training_loop import ErrorForLoop

        try:
            batch = step()
        except StopIteration as done:
            assert self._running is not None
            self._finish(self._running, done.value)
        except UsersError as users:
            if not is_plumbs(users.error):
                self._running = self._coroutine = None
                Companions(self._loop.companions if self._loop is not None else []).give_own()
                self._users_error = users.error if isinstance(users.error, Exception) else None
                raise users.error from None
            self._not_tuned(self._running, users.error)
        except Exception as error:
            self._not_tuned(self._running, error)
        else:
            if isinstance(batch, ErrorForLoop):
                self._users_error = batch.error
                raise batch.error
            return batch
        assert self._registry is not None
        return self._tune_alone([known for known in self._registry.all() if known.name not in self._done])

    def _went_past_the_epoch(self) -> bool:
        """Return whether the loop got more batches than its own epoch has, so that plumb may have caused an error."""
        assert self._running is not None
        assert self._loop is not None
        length = length_of(self._running.latest)
        return length is not None and self._loop.batches_given >= length

    # ---- the other loaders, and the end

    def _tune_alone(self, several: list[KnownLoader]) -> NoReturn:
        """Tune loaders without the user's loop, within the rest of the budget, and end the script."""
        self._tune_each(several)
        if self._failed is not None and not self._has_result:
            self._emit(self._failed)
        self.end_script()

    def _begin_alone(self) -> None:
        self._work = self._work or self._make_work()
        self._deadline = time.perf_counter() + self._budget_seconds

    def _tune_each(self, several: list[KnownLoader]) -> None:
        work = self._work = self._work or self._make_work()
        alive = [(known, loader) for known in several if (loader := _alive(known)) is not None]
        # Even if the loop took longer than its part, a short measurement of the others is worth their entry in the
        # plan.
        late = min(len(alive) * _SHARE_LATE, _SHARE_LATE_AT_MOST) * self._budget_seconds
        self._deadline = max(self._deadline, time.perf_counter() + late)
        for index, (known, loader) in enumerate(alive):
            left = (self._deadline - time.perf_counter()) / (len(alive) - index)
            if left < _SECONDS_WORTH_STARTING:
                self._emit(
                    events.Warned(f"{known.name} ({known.site}) was not {self._done_to_loaders}: the budget is spent")
                )
                self._failed = self._failed or events.Failed(_NO_TIME_LEFT.format(self._done_to_loaders), 1)
                continue
            self._emit(events.TuningStarted(known.name, str(known.site), time.perf_counter() - self._started))
            try:
                # The loader may never have been iterated, so the facts about its dataset are looked up now.
                assert self._registry is not None
                self._registry.iterated(loader)
                self._finish(known, work.run_alone(known, loader, left))
            except UsersError as users:
                self._not_tuned(known, users.error, is_users=not is_plumbs(users.error))
            except Exception as error:
                self._not_tuned(known, error)

    def _not_tuned(self, known: KnownLoader | None, error: BaseException, is_users: bool = False) -> None:
        """Record why a loader could not be tuned; the others still may be.

        If no loader is tuned in the end, the first reason is that of the whole tuning.
        """
        if known is not None:
            self._done.add(known.name)
        text, exit_code = (one_line(error), 1) if is_users else _reason(error)
        is_first, self._failed = self._failed is None, self._failed or events.Failed(text, exit_code)
        assert self._registry is not None
        if not is_first or self._has_result or any(each.name not in self._done for each in self._registry.all()):
            where = f"{known.name} ({known.site}) was not {self._done_to_loaders}: " if known is not None else ""
            self._emit(events.Warned(f"{where}{text}", is_failure=True))

    def _share_of_the_others(self, known: KnownLoader) -> float:
        assert self._registry is not None
        # Loaders that feed the same loop are tuned with it.
        others = [each for each in self._registry.all() if each is not known and self._companion(each) is None]
        return min(len(others) * _SHARE_ALONE, 0.5)

    def _finish(self, known: KnownLoader, result: events.Event) -> None:
        self._done.add(known.name)
        self._emit(result)
        self._has_result = True
        if self._loop is not None and known is self._running:
            for companion in self._loop.companions:
                self._done.add(companion.known.name)
                if companion.result is not None:
                    self._emit(companion.result)
        if self._work is not None and self._work.only_one:
            self.end_script()

    def fail(self, error: Exception) -> NoReturn:
        """End the script because plumb can't go on, with one line for the user; the traceback on request."""
        self._fail_with(*_reason(error))

    def _fail_with(self, text: str, exit_code: int = 1) -> NoReturn:
        """End the script, and the tuning with one line that gives the reason."""
        self._emit(events.Failed(text, exit_code))
        self.end_script()

    def report_end(self, by_plumb: bool) -> None:
        """Send the parent the last event."""
        had_children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0
        self._emit(events.Ended(by_plumb, had_children))

    def end_script(self) -> NoReturn:
        """End the process without running any more of the user's code."""
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        self._at_end()
        self.report_end(by_plumb=True)
        end_children()
        os._exit(0)


def _reason(error: BaseException) -> tuple[str, int]:
    """Return the sentence on an error of plumb's that ends a tuning, and the exit code."""
    if isinstance(error, TuningError):
        return str(error), error.exit_code
    _log.debug("a tuning fails", exc_info=error)
    return failure_report.sentence(error, "nothing changed"), 1


def _alive(known: KnownLoader) -> DataLoader[Any] | None:
    """Return the loader unless the script has released it; a loader's truth value is avoided, as it calls `__len__`."""
    return known.latest if known.latest is not None else known.loader()


def _batches_left(watched: WatchedIterator, begins_anew: bool) -> float:
    """Return how many batches the loop may get before its epoch ends.

    A plain loop's epoch ends only when its iterator does, which it never does here. A loop that counts its batches must
    be left before its count is reached, or its epoch-end code would run. If the loop `begins_anew` whenever the
    iterator ends, its count is no epoch.
    """
    length = length_of(watched.known.latest)
    is_endless = watched.plain_loop or begins_anew or length is None
    return math.inf if is_endless or length is None else max(length - watched.batches_given - 1, 1)
