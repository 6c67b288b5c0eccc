"""Ratio of two rates, measured in pairs of adjacent windows, with an interval that is valid at any stopping time.

Drift of the machine and other users' load change both windows of a pair. So the logarithm of the ratio within each pair
is evaluated, and not two rates with intervals of their own. A comparison is evaluated after each pair and ends as soon
as its answer is known; an interval for a fixed number of pairs would be wrong far too often with repeated evaluations.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plumb.core.plan import LoopGain

# A gain below this is not worth another configuration.
WORTH = 0.02
# An undecided candidate is taken if the probability that it is slower by more than `SLOWER` is below
# `CHANCE_OF_SLOWER`.
SLOWER, CHANCE_OF_SLOWER = 0.03, 0.05
_ERROR_RATE = 0.05
# Weight of the mixture of effect sizes, as a number of pairs. A small weight makes the interval short for few pairs of
# a large effect: with 0.1, three pairs can separate two rates, with 1.0 five are needed.
_MIXTURE_PAIRS = 0.1
# Few pairs may agree by chance; no machine repeats itself more closely than this.
_LEAST_SPREAD = 0.005
_STEPS = 4001


class Answer(enum.Enum):
    """Result of comparing a candidate with the user's configuration."""

    FASTER = "faster"
    NOT_FASTER = "not faster"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class PairedRatio:
    """Ratio of a candidate's rate to the own one: the geometric mean over `pairs`, and a 95 % interval.

    The interval is valid at all evaluations together, after every pair. `slower_chance` is the probability, given these
    pairs and a flat prior, that the candidate is slower by more than `SLOWER`.
    """

    ratio: float
    interval: tuple[float, float]
    pairs: int
    slower_chance: float

    @property
    def is_bounded(self) -> bool:
        """True if there were enough pairs for a bounded interval."""
        return self.interval[0] > 0 and math.isfinite(self.interval[1])

    @property
    def answer(self) -> Answer:
        """Answer of the pairs: faster, not faster by a worthwhile amount (`WORTH`), or undecided."""
        low, high = self.interval
        if low > 1.0:
            return Answer.FASTER
        return Answer.NOT_FASTER if high < 1.0 + WORTH else Answer.UNDECIDED

    @property
    def is_taken(self) -> bool:
        """True if the candidate is faster, or if it is probably faster and hardly ever slower."""
        if self.answer is Answer.UNDECIDED:
            return self.ratio > 1.0 + WORTH and self.slower_chance < CHANCE_OF_SLOWER
        return self.answer is Answer.FASTER

    @property
    def gain(self) -> LoopGain:
        """The ratio for a plan, without bounds that tell nothing."""
        return LoopGain(self.ratio, self.interval if self.is_bounded else None, self.pairs, self.slower_chance)


def paired_ratio(pairs: Sequence[tuple[float, float]]) -> PairedRatio:
    """Compare rates measured in pairs.

    The interval is the confidence sequence of Wang and Ramdas ("Anytime-valid t-tests and confidence sequences for
    Gaussian means with unknown variance", 2024) for the mean of normal values, here log(candidate / own): the set of
    all means m at which the mixture of likelihood ratios

        sqrt(c / (n + c)) * ((n + c) V / ((n + c) V - S^2))^(n / 2),   S = sum(x - m),   V = sum((x - m)^2)

    has not reached 1 / 0.05 after n values. It is solved for m in closed form.

    Args:
        pairs: The rates of each pair, own configuration first, in samples per second; all above 0.

    Returns:
        The ratio candidate / own. Its interval is unbounded for fewer than three pairs.

    Raises:
        ValueError: There is no pair.
    """
    if not pairs:
        raise ValueError("no pair was measured")
    logs = np.array([math.log(candidate / own) for own, candidate in pairs])
    mean, spread = float(logs.mean()), max(float(logs.std()), _LEAST_SPREAD)
    reach = spread * _reach(len(logs))
    low, high = (
        math.exp(bound) if abs(bound) < 700 else (math.inf if bound > 0 else 0.0)
        for bound in (mean - reach, mean + reach)
    )
    return PairedRatio(
        math.exp(mean), (low, high), len(logs), _chance_below(math.log(1 - SLOWER), mean, spread, len(logs))
    )


def _reach(pairs: int) -> float:
    """Return half the width of the interval, in population standard deviations of the pairs' logarithms."""
    n, c = float(pairs), _MIXTURE_PAIRS
    limit = ((n + c) / (c * _ERROR_RATE**2)) ** (1 / n)
    room = (n + c) - limit * c
    return math.sqrt((limit - 1) * (n + c) / room) if room > 0 else math.inf


def _chance_below(bound: float, mean: float, spread: float, pairs: int) -> float:
    """Return the probability that the true mean lies below `bound`.

    It is Student's t, for flat priors of the mean and of log(spread).
    """
    if pairs < 2:
        return 0.5
    freedom = pairs - 1
    t = (bound - mean) * math.sqrt(freedom) / spread
    # The substitution t = sqrt(freedom) * tan(angle) makes the density cos(angle)^(freedom - 1) on a bounded interval.
    angles = np.linspace(-math.pi / 2, math.pi / 2, _STEPS)
    density = np.cos(angles) ** (freedom - 1)
    below = np.where(angles <= math.atan2(t, math.sqrt(freedom)), density, 0.0)
    return float(below.sum() / density.sum())
