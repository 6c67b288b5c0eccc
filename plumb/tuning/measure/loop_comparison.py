"""Comparison of two configurations in the user's loop: pairs of adjacent windows until the answer is known."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.core.errors import UsersError, one_line
from plumb.core.plan import LoopGain
from plumb.host.malloc import malloc_reuse
from plumb.tuning.measure.paired_comparison import Answer, PairedRatio, paired_ratio
from plumb.tuning.measure.replayed_batches import BegunBatches, RestartingIterator
from plumb.tuning.measure.throughput import skipping, whole
from plumb.tuning.measure.training_loop import LoopMeter, LoopReading, MeasurementCoroutine

# Share of the batches of a loop with a fixed number of them, for each window.
_SHARE_OF_A_WINDOW = 0.15
# After this many pairs the interval shrinks by less than two percent with each further pair.
_MOST_PAIRS = 40
# Smallest number of pairs that can answer. A candidate that is this much faster after the first pair gets them even
# after the deadline.
_PAIRS_THAT_TELL, _PROMISING = 3, 1.1
# But no longer after the deadline than this.
_LATE_SECONDS = 8.0
# A first pair needs at least the time of this many of the loop's own batches: one to start with, one to measure, and
# the candidate's, which is assumed to be no slower.
_BATCHES_OF_A_PAIR = 3


@dataclass(frozen=True)
class LoopComparison:
    """Measurements of the loop on its own configuration and on a candidate, window by window, and their ratio.

    `failure` is the reason in one line if the candidate could not go on in the loop; otherwise it is empty.
    """

    own: tuple[LoopReading, ...]
    candidate: tuple[LoopReading, ...]
    ratio: PairedRatio | None
    failure: str = ""

    @property
    def is_open(self) -> bool:
        """True if there is neither an answer nor a failure."""
        return not self.failure and (self.ratio is None or self.ratio.answer is Answer.UNDECIDED)

    @property
    def is_taken(self) -> bool:
        """True if the candidate should replace the user's configuration."""
        return not self.failure and self.ratio is not None and self.ratio.is_taken

    @property
    def gain(self) -> LoopGain | None:
        """Ratio of the candidate's rate to the own one, for a plan; None without a pair."""
        return self.ratio.gain if self.ratio is not None else None


def compare_in_loop(
    loop: LoopMeter,
    own: tuple[Config, Iterator[Any]],
    candidate: tuple[Config, Callable[[], DataLoader[Any]]],
    seconds: float,
    deadline: float,
    latest: float = math.inf,
    batch_seconds: float = 0.0,
    switch: Callable[[bool], int] = lambda to_candidate: 0,
) -> MeasurementCoroutine[LoopComparison]:
    """Feed the loop from its own loader and from the candidate's in turns, until their ratio is known.

    The order within a pair alternates, so that neither side always follows the other.

    Args:
        loop: The user's loop.
        own: The user's configuration, and endless batches of it.
        candidate: The other configuration, and a function that makes a loader on it.
        seconds: Length of one window, without the batches that may have been prefetched.
        deadline: Latest start of the last pair, in `time.perf_counter` seconds, except for a candidate that looks
            promising after the first pair. The time to start the candidate's workers is added.
        latest: Latest end of the last pair, estimated from earlier ones, in `time.perf_counter` seconds.
        batch_seconds: Seconds per batch of the loop on the user's configuration; 0 if unknown.
        switch: Called before each window with whether it is the candidate's, to exchange the loop's other loaders.
            Returns the number of steps for which these may have batches ready.

    Returns:
        All windows. There is no ratio if the loop ended, or the time was over, before there was a pair.
    """
    begun = time.perf_counter()
    pair_seconds = max(_BATCHES_OF_A_PAIR * batch_seconds, 2 * seconds)
    if begun + pair_seconds > latest:
        return LoopComparison((), (), None)
    try:
        with malloc_reuse(candidate[0].allocator_reuse):
            others = _begun(candidate[1](), loop.skips)
    except UsersError as users:
        return LoopComparison((), (), None, one_line(users.error))
    except Exception as error:
        # The user's own loader may not need the workers, stores and files that the candidate needs.
        return LoopComparison((), (), None, one_line(error))
    deadline += time.perf_counter() - begun
    readings: tuple[list[LoopReading], list[LoopReading]] = ([], [])
    sides = [(own[0], own[1], readings[0]), (candidate[0], others, readings[1])]
    ratio: PairedRatio | None = None
    failure = ""
    for number in range(_MOST_PAIRS):
        pair_begun = time.perf_counter()
        late_seconds = pair_begun - deadline
        may_tell = ratio is not None and (ratio.pairs >= _PAIRS_THAT_TELL or ratio.ratio < _PROMISING)
        is_over = (may_tell and late_seconds > 0) or late_seconds > _LATE_SECONDS
        if (
            not loop.open
            or is_over
            or pair_begun + pair_seconds > latest
            or (ratio is not None and ratio.answer is not Answer.UNDECIDED)
        ):
            break
        for config, batches, taken in sides if number % 2 == 0 else reversed(sides):
            with malloc_reuse(config.allocator_reuse):
                made_ahead = switch(batches is others)
                try:
                    reading = yield from loop.measure(
                        batches,
                        max(config.batches_in_flight + 1, made_ahead),
                        seconds,
                        deadline + seconds,
                        _SHARE_OF_A_WINDOW,
                        errors_are_users=batches is not others,
                        per_round=max(config.num_workers, 1),
                    )
                except UsersError as users:
                    if batches is not others:
                        raise
                    failure, reading = one_line(users.error), None
            taken += [reading] if reading else []
        if failure or not readings[0] or len(readings[0]) != len(readings[1]):
            break
        pair_seconds = max(pair_seconds, time.perf_counter() - pair_begun)
        ratio = paired_ratio([_rates(pair) for pair in zip(*readings, strict=True)])
    return LoopComparison(tuple(readings[0]), tuple(readings[1]), ratio, failure)


def _rates(pair: Sequence[LoopReading]) -> tuple[float, float]:
    """Return the samples per second of both windows as wholes, because rare slow batches are part of a rate."""
    own, candidate = (whole(reading.chunks).samples_per_second for reading in pair)
    return own, candidate


def _users(batches: Iterator[Any]) -> Any:
    """Return the next batch, and raise the dataset's own errors unwrapped."""
    try:
        return next(batches)
    except UsersError as users:
        if isinstance(users.error, StopIteration):
            raise
        raise users.error from None


def _begun(loader: DataLoader[Any], skips: tuple[type[Exception], ...]) -> BegunBatches:
    """Start a loader and return its endless batches."""
    batches = RestartingIterator(None, lambda: iter(loader))
    return BegunBatches(skipping(lambda: _users(batches), skips), batches)
