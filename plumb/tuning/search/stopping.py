"""Rules that end a search: the gain still to be expected, given the model's errors so far, and the time."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

# Prior of the model's error: none on average, with this spread, and with the weight of this many measurements.
_USUAL_ERROR, _USUAL_WEIGHT = 0.08, 2.0
_LEAST_ERROR = 0.015
# A larger error concerns only the way (kind of configuration) in which it occurred; for other ways it is clipped to
# this.
_ERROR_OF_OTHERS = 3 * _USUAL_ERROR
# Starting and measuring one configuration takes this many paces (lengths of a window). A tuning that predicts first is
# worth a share of the time to measure every configuration, minus its finals, which take this many paces.
_WINDOWS_FOR_EACH, _SHARE_OF_EVERY_ONE, _FINALS_WINDOWS = 4.0, 0.1, 5.0
_NORMAL = NormalDist()
_INTERVAL_SIGMAS = 2 * 1.96


@dataclass(frozen=True)
class RatePair:
    """A predicted rate, the measured rate, and the measurement's interval, on any scale.

    `way` distinguishes kinds of configurations for which the model may be wrong in different ways.
    """

    predicted: float
    measured: float
    interval: tuple[float, float]
    way: Hashable = None


@dataclass(frozen=True)
class ModelError:
    """Mean and spread of the logarithm of true over predicted rates."""

    bias: float
    spread: float


def model_error(seen: Sequence[RatePair], way: Hashable = None) -> ModelError:
    """Return the model's error for configurations of one way, without the noise of the measurements.

    It is estimated from measurements of the same way, with those of other ways as prior. So one bad miss neither rules
    out the ways not tried yet, nor is it ignored for its own way.
    """
    useful = [one for one in seen if one.predicted > 0 and one.measured > 0]
    usual = ModelError(0.0, _USUAL_ERROR)
    others = [one for one in useful if one.way != way]
    of_others = [(min(max(_error(one), -_ERROR_OF_OTHERS), _ERROR_OF_OTHERS), one.interval) for one in others]
    return _learnt([(_error(one), one.interval) for one in useful if one.way == way], _learnt(of_others, usual))


def _learnt(errors: Sequence[tuple[float, tuple[float, float]]], before: ModelError) -> ModelError:
    """Return the error estimated from `errors`, each with the interval of its measurement, and the prior `before`."""
    weight = len(errors) + _USUAL_WEIGHT
    bias = (sum(error for error, _ in errors) + _USUAL_WEIGHT * before.bias) / weight
    squares = sum((error - bias) ** 2 - _sigma(interval) ** 2 for error, interval in errors)
    variance = (squares + _USUAL_WEIGHT * before.spread**2) / weight
    return ModelError(bias, math.sqrt(max(variance, _LEAST_ERROR**2)))


def _error(one: RatePair) -> float:
    return math.log(one.measured / one.predicted)


def _sigma(interval: tuple[float, float]) -> float:
    """Return the standard deviation of the logarithm of a rate with this 95 % interval."""
    low, high = interval
    return math.log(high / low) / _INTERVAL_SIGMAS if 0 < low < high else 0.0


def expected_gain(predicted: float, error: ModelError, best: float, interval: tuple[float, float]) -> float:
    """Return the expected gain over the best rate from trying one more configuration.

    The rate r of a configuration with the prediction p is taken to be log-normal around p * exp(bias). With the model's
    spread and the width of the best's own interval as the standard deviation s of log(r / best), and its mean m, this
    is the expected improvement

        E[max(r / best - 1, 0)] = exp(m + s^2 / 2) * N(m / s + s) - N(m / s)

    with N the normal distribution function.

    Args:
        predicted: Predicted rate of the configuration, in samples per second.
        error: The model's error for such configurations.
        best: Best measured rate, in samples per second.
        interval: 95 % interval of `best`.

    Returns:
        The gain relative to the best rate; 0.01 is one percent.
    """
    if best <= 0 or predicted <= 0:
        return math.inf if best <= 0 else 0.0
    spread = math.hypot(error.spread, _sigma(interval))
    mean = math.log(predicted / best) + error.bias
    gain = math.exp(mean + spread**2 / 2) * _NORMAL.cdf(mean / spread + spread) - _NORMAL.cdf(mean / spread)
    return max(0.0, gain)


def worth_seconds(configurations: int, window_seconds: float) -> float:
    """Return the seconds that a tuning may take before its finals.

    Args:
        configurations: Number of configurations to choose from.
        window_seconds: Length of one measurement window.
    """
    return (_SHARE_OF_EVERY_ONE * _WINDOWS_FOR_EACH * configurations - _FINALS_WINDOWS) * window_seconds
