"""When to stop looking: what is left to gain, as the model sees it once it was told how wrong it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

# Before anything was measured, the model is taken to be right on average and wrong by so much, as if seen so often.
_USUAL_ERROR, _USUAL_WEIGHT = 0.08, 2.0
_LEAST_ERROR = 0.015
_NORMAL = NormalDist()
_INTERVAL_SIGMAS = 2 * 1.96


@dataclass(frozen=True)
class Seen:
    """A rate that was predicted, the rate that was measured, and the interval of the measurement, on any scale."""

    predicted: float
    measured: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class ModelError:
    """The logarithm of true over predicted rates: its mean and its spread."""

    bias: float
    spread: float


def model_error(seen: Sequence[Seen]) -> ModelError:
    """The error of the model, from what was measured: what spreads by the noise of measuring is not the model's."""
    useful = [one for one in seen if one.predicted > 0 and one.measured > 0]
    errors = [math.log(one.measured / one.predicted) for one in useful]
    weight = len(errors) + _USUAL_WEIGHT
    bias = sum(errors) / weight
    squares = sum((error - bias) ** 2 - _sigma(one.interval) ** 2 for error, one in zip(errors, useful, strict=True))
    variance = (squares + _USUAL_WEIGHT * _USUAL_ERROR**2) / weight
    return ModelError(bias, math.sqrt(max(variance, _LEAST_ERROR**2)))


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


def remaining_gain(
    predictions: Iterable[float], error: ModelError, best: float, interval: tuple[float, float], enough: float
) -> float:
    """The most that any configuration not tried yet is worth; no more than what the step leaves to gain."""
    most = max((expected_gain(predicted, error, best, interval) for predicted in predictions), default=0.0)
    return min(most, max(0.0, enough / best - 1.0)) if best > 0 else most
