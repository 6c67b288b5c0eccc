"""Measurement of a plan by the clock of a run: its first epochs, and turns with the user's own if it seems slow.

Every batch costs two readings of the clock until the plan's claim is confirmed; then none. Slow first epochs may be
caused by other processes, so they don't decide alone: the script's own configuration reads the next lap, and adjacent
laps are compared, as long as other processes took as much of the CPUs in both.
"""

from __future__ import annotations

import enum
import math
import weakref
from collections.abc import Callable
from statistics import mean
from typing import Protocol

from plumb.core.config import Config
from plumb.core.plan import Claim, Delivered
from plumb.instrument.failure_report import say as say_failure
from plumb.runtime.lap import Lap

# A lap ends with an epoch. Very short epochs are joined, long ones are cut.
_SHORT_SECONDS, _MANY_EPOCHS, _LONG_SECONDS, _ENDLESS_SECONDS = 0.5, 4, 60.0, 600.0
# A first epoch slower by this factor than the user's own, even without its start, is not followed by another.
_HOPELESS = 1.3
# The user's own configuration is given up in mid-lap if it takes this many times as long, after so much of it.
_LOST, _LOST_SECONDS, _LOST_BATCHES = 2.0, 5.0, 8
_LOST_LATE = 1.5
# If the start takes this share of the second epoch, a third is measured.
_MUCH_OF_A_LAP = 0.1
# Ratio of the rates that decides after one pair of laps, after two, and after three, because hosts drift.
_ENOUGH = (1.4, 1.1, 1.0)
# Pairs whose difference is explained by the load of other processes don't count; after this many, the plan stays.
_SAME_LOAD_CPUS, _MOST_VOID = 0.3, 4


class CpuLoad(Protocol):
    """Measurement of the CPUs that other processes keep busy since construction."""

    def cpus(self) -> float:
        """Return the number of these CPUs."""


class _Phase(enum.Enum):
    FIRST = enum.auto()
    LATER = enum.auto()
    OWN = enum.auto()
    PLAN = enum.auto()


class RunClock:
    """Measurement of the laps of one loader, over all its epochs and those of loaders remade in its place.

    `wants_own`: the user's own configuration should read. `is_over`: nothing is measured any more.

    Args:
        claim: Rates that the plan claims.
        samples_per_batch: Number of samples in a batch.
        own: The user's own configuration.
        plan: The plan's configuration.
        fill_batches: Batches that fill the plan's store, infinity if unknown; 0 without a store.
        on_news: Called with the rates so far, whenever there are new ones.
        load: Starts a measurement of other processes' CPU use.
    """

    def __init__(
        self,
        claim: Claim,
        samples_per_batch: float,
        own: Config,
        plan: Config,
        fill_batches: float,
        on_news: Callable[[Delivered], None],
        load: Callable[[], CpuLoad],
    ) -> None:
        self.wants_own = False
        self.is_over = False
        self._claim = claim
        self._samples = samples_per_batch
        self._own = own
        self._plan = plan
        self._fill_batches = fill_batches
        self._on_news = on_news
        self._begin_load = load
        self._phase = _Phase.FIRST
        self._lap = Lap(is_own=False)
        self._load: CpuLoad | None = None
        self._first: Lap | None = None
        self._later: Lap | None = None
        self._last: Lap | None = None
        self._ratios: list[float] = []
        self._void = 0
        self._has_looked_twice = False
        self._epochs = 0
        self._batches = 0
        self._returned: float | None = None
        self._is_epoch_open = False
        self._start_seconds = 0.0

    # ---- what the loader tells

    def epoch_begins(self) -> None:
        """Start an epoch, before its configuration is chosen."""
        if not self.is_over:
            self._safely(self._epoch_begins)

    def epoch_begun(self, asked: float, got: float) -> None:
        """Record the time at which an epoch was requested, and at which the loop got its iterator."""
        if not self.is_over:
            self._start_seconds = got - asked

    def delivered(self, asked: float, got: float, is_own: bool | None, is_steady: bool) -> None:
        """Record a batch.

        Args:
            asked: Time of the loop's request.
            got: Time at which the loop got it.
            is_own: Whether the user's own configuration has read it; None while one configuration replaces the other.
            is_steady: Whether more was delivered than may have been prefetched at a start.
        """
        if not self.is_over:
            self._safely(lambda: self._delivered(asked, got, is_own, is_steady))

    def epoch_ended(self, asked: float, got: float) -> None:
        """Record that the loop requested a batch and there was none."""
        if not self.is_over:
            self._safely(lambda: self._ended(asked, got))

    def give_up(self) -> None:
        """Stop measuring, because the configuration is decided elsewhere."""
        self.is_over = True

    # ---- one lap

    def _epoch_begins(self) -> None:
        if self._is_epoch_open:
            # The loop has left the last epoch by `break`.
            self._epoch_over()
        self._epochs += 1
        self._is_epoch_open = True
        self._returned = None
        if self._load is None and not self.is_over:
            self._load = self._begin_load()

    def _delivered(self, asked: float, got: float, is_own: bool | None, is_steady: bool) -> None:
        self._batches += 1
        returned, self._returned = self._returned, got
        lap = self._lap
        start_seconds, self._start_seconds = self._start_seconds, 0.0
        if is_own is not lap.is_own or (lap.waits_until_steady and not is_steady):
            return
        if returned is None:
            lap.epochs += 1
            if not lap.waits_until_steady:
                lap.add_first_batch(start_seconds + got - asked)
            return
        lap.waits_until_steady = False
        lap.add_batch(got - asked, asked - returned)
        if self._is_due():
            self._close_lap(within_epoch=True)

    def _ended(self, asked: float, got: float) -> None:
        lap = self._lap
        if self._returned is not None and lap.batches:
            lap.add_end(got - asked, asked - self._returned)
        self._epoch_over()

    def _epoch_over(self) -> None:
        self._is_epoch_open = False
        lap = self._lap
        # Laps of tiny epochs are noise. But the first epoch is unlike all others.
        is_enough = lap.seconds >= _SHORT_SECONDS or lap.epochs >= _MANY_EPOCHS or self._phase is _Phase.FIRST
        if lap.batches and is_enough:
            self._close_lap(within_epoch=False)

    def _is_due(self) -> bool:
        """Return whether a lap ends in the middle of its epoch."""
        lap, last = self._lap, self._last
        seconds = lap.seconds - lap.start_seconds
        if self._phase is _Phase.FIRST:
            # It ends with its epoch, unless that is endless, or already known to be slow.
            is_slow = not self._fill_batches and lap.without_start < self._own_rate(lap)
            is_filled = self._batches >= self._fill_batches
            return is_filled and seconds >= (_LONG_SECONDS if is_slow else _ENDLESS_SECONDS)
        if lap.is_own and last is not None and lap.batches >= _LOST_BATCHES:
            slower = last.batches_per_second / lap.batches_per_second
            if slower > _LOST and lap.seconds > _LOST_SECONDS:
                return True
            if slower > _LOST_LATE and lap.seconds > max(_LOST_LATE * last.seconds, _SHORT_SECONDS):
                return True
        return seconds >= _LONG_SECONDS

    # ---- from lap to lap

    def _close_lap(self, within_epoch: bool) -> None:
        lap, phase = self._lap, self._phase
        lap.others_cpus = self._load.cpus() if self._load is not None else 0.0
        if phase is _Phase.FIRST:
            self._first = lap
            following = self._after_first(lap)
        elif phase is _Phase.LATER:
            self._later = lap
            following = self._after_later(lap)
        else:
            self._later = self._later if lap.is_own else lap
            following = self._after_turn(lap)
        self._last = lap
        if following is not None:
            self._begin_lap(following, within_epoch)

    def _begin_lap(self, phase: _Phase, within_epoch: bool) -> None:
        is_own = phase is _Phase.OWN
        if is_own and not _may_take_turns(self):
            # Another loader of the process takes turns: two at once would invalidate both comparisons.
            phase, is_own = _Phase.LATER, False
        changes = is_own != self._lap.is_own
        # Persistent workers are started, or ended, only for this comparison.
        lasts = self._own.persistent_workers if is_own and self._own.num_workers else self._plan.persistent_workers
        begins_anew = changes and (within_epoch or lasts)
        self._phase, self.wants_own = phase, is_own
        self._lap = Lap(is_own, waits_until_steady=begins_anew)
        self._load = self._begin_load()

    def _after_first(self, lap: Lap) -> _Phase | None:
        own = self._own_rate(lap)
        self._report(is_slower=False, own_lap=None)
        return _Phase.LATER if self._fill_batches or lap.without_start * _HOPELESS >= own else _Phase.OWN

    def _after_later(self, lap: Lap) -> _Phase | None:
        if not self._has_looked_twice and lap.start_seconds > _MUCH_OF_A_LAP * lap.seconds:
            # Part of the start may happen only in the second epoch, such as the check of a store's values.
            self._has_looked_twice = True
            self._report(is_slower=False, own_lap=None)
            return _Phase.LATER
        # It may be slower than claimed, and still faster than the user's own: half of the gain (geometrically)
        # suffices.
        if lap.batches_per_second >= self._own_rate(lap) * math.sqrt(max(self._gain_claimed(lap), 1.0)):
            self._settle(is_slower=False)
            return None
        return _Phase.OWN

    def _after_turn(self, lap: Lap) -> _Phase | None:
        """Compare a lap with the previous one, which was the other configuration's."""
        last = self._last
        assert last is not None
        plan, own = (last, lap) if lap.is_own else (lap, last)
        self._compare(plan, own)
        ratio = mean(self._ratios) if self._ratios else 0.0
        if self._ratios and abs(ratio) >= math.log(_ENOUGH[len(self._ratios) - 1]):
            self._settle(is_slower=ratio < 0)
            return None
        if self._void >= _MOST_VOID:
            self._settle(is_slower=False)
            return None
        return _Phase.PLAN if lap.is_own else _Phase.OWN

    def _compare(self, plan: Lap, own: Lap) -> None:
        ratio = math.log(self._rate_in_turn(plan) / own.batches_per_second)
        slower, faster = (plan, own) if ratio < 0 else (own, plan)
        if slower.others_cpus > faster.others_cpus + _SAME_LOAD_CPUS:
            self._void += 1
        else:
            self._ratios.append(ratio)

    def _rate_in_turn(self, plan: Lap) -> float:
        """Return the rate of a lap on the plan; for the first epoch, without its one-time start."""
        return plan.without_start if plan is self._first else plan.batches_per_second

    # ---- what came of it

    def _settle(self, is_slower: bool) -> None:
        self.is_over, self.wants_own = True, is_slower
        self._load = None
        self._report(is_slower, next((lap for lap in (self._lap, self._last) if lap is not None and lap.is_own), None))

    def _own_rate(self, lap: Lap) -> float:
        """Return the loop's expected batches per second on the user's own configuration, by the plan."""
        return self._in_loop(self._claim.own, lap, self._own)

    def _gain_claimed(self, lap: Lap) -> float:
        return self._in_loop(self._claim.later, lap, self._plan) / self._own_rate(lap)

    def _in_loop(self, rate: float, lap: Lap, config: Config) -> float:
        """Convert a rate in samples per second to batches per second of a loop with the steps of `lap`."""
        if self._claim.is_of_loop:
            return rate / self._samples
        making, step = self._samples / rate, lap.seconds_per_step
        return 1.0 / (max(making, step) if config.num_workers else making + step)

    def _report(self, is_slower: bool, own_lap: Lap | None) -> None:
        first, later = self._first, self._later
        latest = later or first
        assert latest is not None
        own = own_lap.batches_per_second if own_lap else self._own_rate(latest)
        if self._ratios:
            ratio: float | None = math.exp(mean(self._ratios))
        else:
            ratio = later.batches_per_second / own if later else None
        self._on_news(
            Delivered(
                own=own * self._samples,
                first=first.batches_per_second * self._samples if first else None,
                later=later.batches_per_second * self._samples if later else None,
                ratio=ratio,
                is_by_turns=bool(self._ratios),
                others_cpus=latest.others_cpus,
                is_slower=is_slower,
            )
        )

    def _safely(self, call: Callable[[], None]) -> None:
        """Call a method; an error ends the measurement, not the training."""
        try:
            call()
        except Exception as error:
            self.is_over, self.wants_own = True, False
            say_failure(error, "the run is not measured any more")


_on_trial: weakref.ref[RunClock] | None = None


def _may_take_turns(clock: RunClock) -> bool:
    """Return whether this loader may take turns with its user's own configuration: only one per process at a time."""
    global _on_trial
    other = _on_trial() if _on_trial is not None else None
    if other is not None and other is not clock and not other.is_over:
        return False
    _on_trial = weakref.ref(clock)
    return True
