"""When to stop looking: what is left to gain, as the model sees it once it was told how wrong it is, and the time."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

# Before anything was measured, the model is taken to be right on average and wrong by so much, as if seen so often.
_USUAL_ERROR, _USUAL_WEIGHT = 0.08, 2.0
_LEAST_ERROR = 0.015
# A larger error is one of the way in which it was seen: of other ways it says no more than this.
_ERROR_OF_OTHERS = 3 * _USUAL_ERROR
# To start a configuration, and to look at it twice, takes so many paces. A tuning that predicts first is worth a share
# of what it takes to measure every one so, with its finals, which take so many paces.
_PACES_FOR_EACH, _SHARE_OF_EVERY_ONE, _FINALS_PACES = 4.0, 0.1, 5.0
_NORMAL = NormalDist()
_INTERVAL_SIGMAS = 2 * 1.96


@dataclass(frozen=True)
class Seen:
    """A rate that was predicted, the rate that was measured, and the interval of the measurement, on any scale.

    `way` tells apart what the model may be wrong about in different ways.
    """

    predicted: float
    measured: float
    interval: tuple[float, float]
    way: Hashable = None


@dataclass(frozen=True)
class ModelError:
    """The logarithm of true over predicted rates: its mean and its spread."""

    bias: float
    spread: float


def model_error(seen: Sequence[Seen], way: Hashable = None) -> ModelError:
    """The model's error for configurations of one way: what spreads by the noise of measuring is not the model's.

    It is learnt from those of the same way, and where there are few, from the others. So one bad miss neither condemns
    the ways that were not tried yet, nor is it forgotten for its own.
    """
    useful = [one for one in seen if one.predicted > 0 and one.measured > 0]
    usual = ModelError(0.0, _USUAL_ERROR)
    others = [one for one in useful if one.way != way]
    of_others = [(min(max(_error(one), -_ERROR_OF_OTHERS), _ERROR_OF_OTHERS), one.interval) for one in others]
    return _learnt([(_error(one), one.interval) for one in useful if one.way == way], _learnt(of_others, usual))


def _learnt(errors: Sequence[tuple[float, tuple[float, float]]], before: ModelError) -> ModelError:
    """What is believed after some errors were seen, each with the interval of its measurement."""
    weight = len(errors) + _USUAL_WEIGHT
    bias = (sum(error for error, _ in errors) + _USUAL_WEIGHT * before.bias) / weight
    squares = sum((error - bias) ** 2 - _sigma(interval) ** 2 for error, interval in errors)
    variance = (squares + _USUAL_WEIGHT * before.spread**2) / weight
    return ModelError(bias, math.sqrt(max(variance, _LEAST_ERROR**2)))


def _error(one: Seen) -> float:
    return math.log(one.measured / one.predicted)


def _sigma(interval: tuple[float, float]) -> float:
    """The standard deviation of the logarithm of a rate with this 95 % interval."""
    low, high = interval
    return math.log(high / low) / _INTERVAL_SIGMAS if 0 < low < high else 0.0


def expected_gain(predicted: float, error: ModelError, best: float, interval: tuple[float, float]) -> float:
    """What trying one more configuration is worth: its gain over the best, times the probability of it.

    The rate r of a configuration with the prediction p is taken to be log-normal around p * exp(bias). With the
    model's spread and the width of the best's own interval as the standard deviation s of log(r / best), and its mean
    m, this is the expected improvement

        E[max(r / best - 1, 0)] = exp(m + s^2 / 2) * N(m / s + s) - N(m / s)

    with N the normal distribution; 0.01 is one percent.
    """
    if best <= 0 or predicted <= 0:
        return math.inf if best <= 0 else 0.0
    spread = math.hypot(error.spread, _sigma(interval))
    mean = math.log(predicted / best) + error.bias
    gain = math.exp(mean + spread**2 / 2) * _NORMAL.cdf(mean / spread + spread) - _NORMAL.cdf(mean / spread)
    return max(0.0, gain)


def worth_seconds(configurations: int, pace_seconds: float) -> float:
    """What a tuning that chooses among so many may take up to its finals, where one look takes `pace_seconds`."""
    return (_SHARE_OF_EVERY_ONE * _PACES_FOR_EACH * configurations - _FINALS_PACES) * pace_seconds
