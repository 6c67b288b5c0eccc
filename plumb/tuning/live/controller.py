"""Choice of the loop's next configuration: measure the present one, try what the model promises, keep the best, watch.

A decision coroutine is a generator that is sent every delivery and sets `wanted`; the code that delivers the batches
switches to that as soon as it can. Every measured batch is one that the user's loop trains on.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.core.errors import one_line
from plumb.core.log import logger
from plumb.core.plan import Trial
from plumb.core.thresholds import EQUAL, NOISE, NOTHING_TO_GAIN
from plumb.host.process_memory import pages
from plumb.host.shared_memory_cost import fresh_seconds_per_byte
from plumb.instrument import failure_report
from plumb.instrument.fork_safety import handles
from plumb.model import resource_bounds
from plumb.rewrites.find_rewrites import AvailableRewrites
from plumb.runtime.loader import NO_REWRITES
from plumb.tuning.dataset_settings import Settings
from plumb.tuning.live.background_search import BackgroundSearch
from plumb.tuning.live.candidates import Batches, inputs_from_readings, worth_trying
from plumb.tuning.live.meter import Delivery, Meter, MeteredLoop, MeteredRounds
from plumb.tuning.measure.sample_cost import batch_bytes
from plumb.tuning.search.ledger import while_running
from plumb.tuning.search.search_space import WorkerStart, why_handles_matter, worker_start

_log = logger(__name__)

UNLIMITED = Settings()

T = TypeVar("T")
DecisionCoroutine = Generator[None, Delivery, T]

# Spans of a measurement, and the spans that suffice if it is slower than what is known.
SPANS, SPANS_TO_JUDGE = 6, 3
# Smallest gain times its probability for a trial, which costs the start of workers and some slower batches.
WORTH_A_TRIAL = 0.04
MISSES_AT_MOST, TRIALS_AT_MOST = 2, 5
# With rewrites, the first miss ends the search, because the best of them have most of the gain.
MISSES_WITH_REWRITES = 1
# The loop is measured again if the rate of this many spans dropped, or its waiting share rose, by so much.
WATCHED_SPANS, DROP, MORE_WAITING = 8, 0.15, 0.15
# Pause after measuring again, as a multiple of the time that it took.
_REST = 20.0
# Detecting the host's limits takes milliseconds, so they are assumed to hold for this long.
_LIMITS_HOLD_SECONDS = 30.0
# Approximate number of samples of the loop's first batches that a scout reads.
_SAMPLES_FOR_SCOUT = 96
# Epochs to fill a store: one that begins with it, after one that may have filled it in part.
_EPOCHS_TO_FILL = 2
# Workers persist between epochs if starting them takes at least this share of an epoch.
_WORTH_KEEPING = 0.01


class LiveController:
    """Decisions for one loader over all of its epochs.

    `wanted` is the configuration to run on, with the `rewrites` that it names; `trials` lists what ran and why.
    `why_no_workers` returns why no workers may be started beside or in place of the user's, or None if they may.
    `settings` are the user's, of `plumb.tuned`.
    """

    def __init__(self, own: Config, why_no_workers: Callable[[], str | None], settings: Settings = UNLIMITED) -> None:
        self.wanted = own
        self.trials: list[Trial] = []
        self.is_settled = False
        self._own = own
        self._why_no_workers = why_no_workers
        self._settings = settings
        self._options = settings.options()
        self._limits_until = time.perf_counter() + _LIMITS_HOLD_SECONDS
        self._loader: DataLoader[Any] | None = None
        self._batches: Batches | None = None
        self._epoch_batches: int | None = None
        self.rewrites = NO_REWRITES
        self._available = AvailableRewrites()
        self._background_search: BackgroundSearch | None = None
        self._seen_indices: list[Sequence[Any]] = []
        self._untuned_rate = 0.0
        self._epochs = 0
        self._failed: dict[Config, str] = {}
        self._look_again: str | None = None
        self._search_until = math.inf
        self._meter = Meter()
        self._course = self._decide()
        next(self._course)

    # ---- calls of the iterator

    def begin(self, loader: DataLoader[Any], epoch_batches: int | None) -> None:
        """Begin an epoch on the parts of `loader`."""
        self._loader, self._epoch_batches = loader, epoch_batches
        self._epochs += 1
        if time.perf_counter() < self._limits_until:
            return
        before, self._options = self._options.limits, self._settings.options()
        self._limits_until = time.perf_counter() + _LIMITS_HOLD_SECONDS
        if self._options.limits.cpus != before.cpus:
            self._look_again = f"{self._options.limits.cpus:g} CPUs instead of {before.cpus:g}"

    def ends_span(self, now: float, workers: int) -> bool:
        """Return whether the batch requested now completes a span."""
        return self._meter.is_due(now, workers)

    def note(self, delivery: Delivery, batch: Any, indices: Any) -> None:
        """Process the delivery of `batch`, the samples at `indices`; an error ends the tuning, not the training."""
        try:
            if self._batches is None:
                nbytes, tensors = batch_bytes(batch)
                samples = float(max(delivery.samples, 1))
                fresh = fresh_seconds_per_byte() * nbytes / samples
                self._batches = Batches(samples, nbytes, tensors, fresh)
            self._remember(indices)
            self._course.send(delivery)
        except Exception as error:
            # The training must not end because of its tuning.
            self._give_up(error)

    def failed(self, config: Config, reason: str) -> None:
        """Record that `config` could not be run, so that it is not tried again."""
        self._failed[config] = reason
        self._record_trial(config, None, None, f"failed: {reason}")
        if self.wanted == config:
            self.wanted = self._own

    def stay_plain(self, reason: str) -> None:
        """End the tuning: from now on, the user's own configuration reads everything."""
        self.let_go()
        _say(f"your loop goes on with {self._own}: {reason}")
        self._record_trial(self._own, None, None, f"kept: {reason}")
        self._stop()

    def renewed(self, reason: str) -> None:
        """Ignore a restart of workers: measurements from before and after it are comparable."""

    def let_go(self) -> None:
        """End the scout beside the training."""
        background_search, self._background_search = self._background_search, None
        if background_search is not None:
            background_search.end()

    def _give_up(self, error: Exception) -> None:
        self.let_go()
        _log.debug("a live tuning stops", exc_info=error)
        where = failure_report.place_of_report(error)
        _say(f"the tuning of your loop stopped ({one_line(error)}); it goes on with {self.wanted}.{where}")
        self._record_trial(self.wanted, None, None, f"the tuning stopped: {one_line(error)}")
        self._stop()

    def _stop(self) -> None:
        self.is_settled = True
        self._course = _idle()
        next(self._course)

    # ---- rewrites

    def _remember(self, indices: Any) -> None:
        """Keep the indices of the first batches, whose samples a scout reads."""
        if sum(map(len, self._seen_indices)) < _SAMPLES_FOR_SCOUT and isinstance(indices, Sequence):
            self._seen_indices.append(indices)

    def _search_rewrites(self, gained: bool) -> DecisionCoroutine[bool]:
        """Search once for available rewrites in a separate process; return whether it found any.

        The scout runs at normal priority if tuning has already `gained` more than the scout can cost, else at low
        priority.
        """
        assert self._loader is not None
        if self._settings.plain:
            return False
        context = self._loader.multiprocessing_context or multiprocessing
        seen, self._seen_indices = self._seen_indices, []
        if not seen or context.get_start_method() != "fork" or self._why_none_are_started() is not None:
            return False
        try:
            background_search = self._background_search = BackgroundSearch(self._loader, seen, is_nice=not gained)
        except (OSError, AssertionError):
            # The host has no room for a scout, or this process may not have children.
            return False
        while (available := background_search.available()) is None:
            yield
        self._background_search = None
        self._available, self.rewrites = available, available.rewrites
        return bool(available.cuts or available.deferrals or available.threads)

    def _why_none_are_started(self) -> str | None:
        """Return why no workers may be started beside or in place of the user's, or None if they may."""
        assert self._loader is not None
        held = () if self._own.num_workers else handles(self._loader.dataset)
        if held and multiprocessing.get_start_method() == "fork":
            return self._why_no_workers() or why_handles_matter(held)
        return self._why_no_workers() or worker_start(self._loader, self._own, ()).why_not

    # ---- the decision coroutine

    def _decide(self) -> DecisionCoroutine[None]:
        reading = yield from self._measure_fully(self._own)
        self._record_trial(reading.config, None, reading, "your own configuration")
        self._untuned_rate = reading.rate.samples_per_second
        settled = yield from self._find_best(reading)
        while True:
            why = yield from self._watch(settled)
            begun = time.perf_counter()
            reading = yield from self._measure_fully(settled.config)
            self._record_trial(reading.config, None, reading, f"looked at again: {why}")
            settled = yield from self._find_best(reading)
            spent = time.perf_counter() - begun
            yield from self._rest(spent * _REST)

    def _find_best(self, before: MeteredLoop) -> DecisionCoroutine[MeteredLoop]:
        """Find the best of torch's configurations, then of those with rewrites; set `wanted` to it and return it."""
        self.is_settled = False
        self._search_until = time.perf_counter() + (self._settings.budget_seconds or math.inf)
        readings = {before.config: before}
        best, verdict = yield from self._search(before, readings, MISSES_AT_MOST)
        if best.waiting_share >= NOTHING_TO_GAIN:
            has_found = yield from self._search_rewrites(gained=best is not before)
            if has_found:
                best, verdict = yield from self._search(best, readings, MISSES_WITH_REWRITES)
        self._settle(before, best, verdict)
        return best

    def _search(
        self, best: MeteredLoop, readings: dict[Config, MeteredLoop], misses_at_most: int
    ) -> DecisionCoroutine[tuple[MeteredLoop, str]]:
        """Try the most promising configurations until none promises enough; return the best, and why it ended."""
        misses, verdict = 0, "as good as any"
        for _ in range(TRIALS_AT_MOST):
            if best.waiting_share < NOTHING_TO_GAIN:
                verdict = f"nothing to gain: your loop waits for data {best.waiting_share:.1%} of its time"
                break
            if time.perf_counter() >= self._search_until:
                verdict = f"its budget of {self._settings.budget_seconds:g} s is spent"
                break
            why_none = self._why_none_are_started()
            found = self._configs_worth_trying(readings, WorkerStart(why_not=why_none))
            if found is None or misses == misses_at_most:
                verdict = why_none or verdict
                break
            config, predicted = found
            reading = yield from self._measure(config, best.rate.interval[0])
            if reading is None:
                misses += 1
                continue
            readings[config] = reading
            is_better, best = yield from self._compare(best, reading)
            self._record_trial(config, predicted, reading, "better" if is_better else "not better")
            misses = 0 if is_better else misses + 1
        self.wanted = best.config
        return best, verdict

    def _configs_worth_trying(
        self, readings: dict[Config, MeteredLoop], start: WorkerStart
    ) -> tuple[Config, float] | None:
        assert self._loader is not None
        assert self._batches is not None
        available = self._available
        inputs = inputs_from_readings(
            self._loader, readings, self._batches, self._options.limits, self._epoch_batches, available
        )
        return worth_trying(
            self._loader, self._own, inputs, readings, self._failed, start, WORTH_A_TRIAL, available, self._options
        )

    def _compare(self, best: MeteredLoop, other: MeteredLoop) -> DecisionCoroutine[tuple[bool, MeteredLoop]]:
        """Return whether `other` is better, and the better one; measure `best` again if noise may explain the gain."""
        ratio = other.rate.samples_per_second / best.rate.samples_per_second
        if ratio <= 1 + EQUAL:
            return False, best
        if ratio < 1 + NOISE or other.rate.interval[0] <= best.rate.interval[1]:
            again = yield from self._measure(best.config)
            best = best if again is None else best.and_again(again)
        is_better = other.rate.interval[0] > best.rate.interval[1]
        return is_better, other if is_better else best

    def _watch(self, settled: MeteredLoop) -> DecisionCoroutine[str]:
        """Wait until the loop's rate, its waiting or the limits change; return why it has to be measured again."""
        rate, waiting = settled.rate.samples_per_second, settled.waiting_share
        recent: deque[MeteredRounds] = deque(maxlen=WATCHED_SPANS)
        self._meter = Meter()
        while True:
            delivery = yield
            if self._look_again is not None:
                why, self._look_again = self._look_again, None
                return why
            span = self._meter.note(_of(settled.config, dataclasses.replace(delivery, pids=())))
            if span is None:
                continue
            recent.append(span)
            if len(recent) < WATCHED_SPANS:
                continue
            now = MeteredLoop(settled.config, tuple(recent))
            if now.rate.interval[1] < rate * (1 - DROP):
                return f"{now.rate.samples_per_second:,.0f} samples/s instead of {rate:,.0f}"
            if now.waiting_share > waiting + MORE_WAITING:
                return f"it waits for data {now.waiting_share:.0%} of its time instead of {waiting:.0%}"

    def _rest(self, seconds: float) -> DecisionCoroutine[None]:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            yield

    def _measure_fully(self, config: Config) -> DecisionCoroutine[MeteredLoop]:
        """Measure a configuration however long it takes; if it can't be run, the user's own instead."""
        while True:
            reading = yield from self._measure(config)
            if reading is not None:
                return reading
            config = self._own
            self._failed.pop(config, None)

    def _measure(self, config: Config, floor: float = 0.0) -> DecisionCoroutine[MeteredLoop | None]:
        """Run on `config` until there are enough spans, or until its rate is clearly below `floor`.

        While its store is being filled, the loop must only be about as fast as untuned. Returns None if `config` can't
        be run.
        """
        self.wanted = config
        self._meter = Meter()
        spans: list[MeteredRounds] = []
        filling, fills_since = True, self._epochs
        while len(spans) < SPANS:
            delivery = yield
            if config in self._failed:
                return None
            if filling and delivery.is_filled and _is_on(config, delivery):
                filling, self._meter = False, Meter()
                spans.clear()
            if filling and config.cache and self._epochs > fills_since + _EPOCHS_TO_FILL:
                self.failed(config, "its store is begun anew with every epoch")
                return None
            span = self._meter.note(_of(config, delivery))
            if span is None:
                continue
            spans.append(span)
            if filling:
                del spans[:-SPANS_TO_JUDGE]
                floor_now = min(floor, self._untuned_rate * (1 - DROP))
            else:
                floor_now = floor
            if len(spans) >= SPANS_TO_JUDGE and MeteredLoop(config, tuple(spans)).rate.interval[1] < floor_now:
                break
        private = max((pages(pid).private_bytes for pid in delivery.pids), default=0.0)
        return MeteredLoop(config, tuple(spans), private, delivery.start_seconds)

    # ---- results

    def _settle(self, before: MeteredLoop, best: MeteredLoop, verdict: str) -> None:
        self.is_settled = True
        self.wanted = self._with_persistence(best)
        if best is before or best.config == before.config:
            self._record_trial(best.config, None, best, f"kept: {verdict}")
            return
        self._record_trial(best.config, None, best, "kept: the best of what was tried")
        _say(
            f"your loop runs at {best.rate.samples_per_second:,.0f} samples/s with {best.config}, and ran at "
            f"{before.rate.samples_per_second:,.0f} with {before.config}"
        )

    def _with_persistence(self, best: MeteredLoop) -> Config:
        """Return the configuration, with persistent workers if their start takes long enough or the user's persist."""
        config = best.config
        if not config.num_workers or self._own.persistent_workers or config.cache:
            return config
        keeps = False
        if self._epoch_batches and self._batches:
            samples = self._epoch_batches * self._batches.samples
            rate = best.rate.samples_per_second
            keeps = float(resource_bounds.amortized(rate, samples, best.start_seconds)) < (1 - _WORTH_KEEPING) * rate
        return dataclasses.replace(config, persistent_workers=keeps)

    def _record_trial(self, config: Config, predicted: float | None, reading: MeteredLoop | None, outcome: str) -> None:
        rate = reading.rate if reading else None
        self.trials.append(
            Trial(
                config,
                predicted,
                rate.samples_per_second if rate else None,
                rate.interval if rate else None,
                outcome,
            )
        )


def _of(config: Config, delivery: Delivery) -> Delivery:
    """Return the delivery for a measurement of `config`: steady only if it ran on `config`."""
    return dataclasses.replace(delivery, is_steady=delivery.is_steady and _is_on(config, delivery))


def _is_on(config: Config, delivery: Delivery) -> bool:
    return while_running(delivery.config) == while_running(config)


def _say(text: str) -> None:
    print(f"plumb: {text}", file=sys.stderr)


def _idle() -> DecisionCoroutine[None]:
    while True:
        yield
