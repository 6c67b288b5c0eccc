"""What is left to gain: more where the model says more, or knows less."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumb.tuning.search.stopping import ModelError, RatePair, expected_gain, model_error, worth_seconds

rates = st.floats(1, 1e5)
spreads = st.floats(0.015, 0.5)


@given(rates, rates, spreads, st.floats(-0.5, 0.5))
def test_the_formula_is_the_mean_gain_of_a_log_normal_rate(predicted, best, spread, bias):
    draws = predicted * np.exp(bias + spread * np.random.default_rng(0).standard_normal(20_000))
    measure_samples = np.maximum(draws / best - 1, 0).mean()
    assert expected_gain(predicted, ModelError(bias, spread), best, (best, best)) == pytest.approx(
        measure_samples, rel=0.15, abs=0.01
    )


@given(rates, rates, rates, spreads)
def test_a_higher_prediction_is_worth_no_less(one, other, best, spread):
    low, high = sorted((one, other))
    error, interval = ModelError(0.0, spread), (best * 0.98, best * 1.02)
    assert expected_gain(low, error, best, interval) <= expected_gain(high, error, best, interval) + 1e-12


def test_a_model_that_is_always_wrong_by_the_same_is_trusted():
    before = model_error([])
    biased = model_error([RatePair(100.0, 115.0, (114.0, 116.0))] * 20)
    erratic = model_error([RatePair(100.0, 80.0, (79.0, 81.0)), RatePair(100.0, 125.0, (124.0, 126.0))] * 10)
    assert biased.bias == pytest.approx(np.log(1.15), rel=0.15)
    assert biased.spread < before.spread < erratic.spread


def test_the_noise_of_measuring_is_not_the_model_s_error():
    apart = [RatePair(100.0, 90.0, (89.0, 91.0)), RatePair(100.0, 110.0, (109.0, 111.0))] * 5
    noisy = [RatePair(100.0, 90.0, (75.0, 108.0)), RatePair(100.0, 110.0, (92.0, 132.0))] * 5
    assert model_error(noisy).spread < model_error(apart).spread


def test_a_bad_miss_is_held_against_its_own_way():
    missed = [RatePair(100.0, 30.0, (29.0, 31.0), "stored")]
    its_own, another = model_error(missed, "stored"), model_error(missed, "plain")
    assert its_own.bias < 3 * another.bias < 0
    assert expected_gain(150.0, another, 100.0, (99.0, 101.0)) > 0.2
    assert model_error(missed * 4, "stored").bias < its_own.bias
    assert model_error(missed * 4, "stored").spread < its_own.spread


def test_what_holds_for_all_ways_is_learnt_from_all():
    seen = [RatePair(100.0, 85.0, (84.0, 86.0), way) for way in "abcd"]
    assert model_error(seen, "e").bias == pytest.approx(np.log(0.85), rel=0.5)


@given(st.integers(1, 10_000), st.floats(0.01, 10.0))
def test_a_search_is_worth_less_than_a_tenth_of_two_looks_at_everything(configurations, window_seconds):
    worth = worth_seconds(configurations, window_seconds)
    assert worth < 0.1 * 4 * configurations * window_seconds
    assert worth < worth_seconds(configurations + 1, window_seconds)
    assert (worth > 0) == (configurations > 12)
