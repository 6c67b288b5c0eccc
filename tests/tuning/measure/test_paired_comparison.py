"""Paired comparisons: right however often one looks, quick where the difference is large, and never sure of nothing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumb.tuning.measure.paired_comparison import Answer, PairedRatio, paired_ratio

RACES, MOST_PAIRS, NOISE = 1500, 15, 0.08


def race(random: np.random.Generator, gain: float, most_pairs: int = MOST_PAIRS) -> PairedRatio:
    """Pairs under drift that hits both windows alike, looked at after each, until the answer is known."""
    pairs: list[tuple[float, float]] = []
    drift = 0.0
    for _ in range(most_pairs):
        drift += random.normal(0, 0.2)
        own, other = np.exp(drift + random.normal(0, NOISE, 2))
        pairs.append((100 * own, 100 * other * gain))
        seen = paired_ratio(pairs)
        if seen.answer is not Answer.UNDECIDED:
            break
    return seen


def test_equal_rates_are_hardly_ever_called_different_though_each_pair_is_looked_at():
    random = np.random.default_rng(0)
    races = [race(random, 1.0) for _ in range(RACES)]
    assert sum(seen.interval[0] > 1 for seen in races) / RACES < 0.03
    assert sum(seen.interval[1] < 1 for seen in races) / RACES < 0.03


def test_what_is_taken_is_hardly_ever_slower():
    random = np.random.default_rng(1)
    taken = [race(random, 0.95, pairs).is_taken for pairs in (2, 3, 5, 8) for _ in range(RACES // 4)]
    assert sum(taken) / len(taken) < 0.05


def test_a_large_gain_is_known_after_few_pairs_and_a_small_one_in_the_end():
    random = np.random.default_rng(2)
    large = [race(random, 1.36) for _ in range(200)]
    assert all(seen.answer is Answer.FASTER for seen in large)
    assert np.median([seen.pairs for seen in large]) <= 6
    assert sum(race(random, 1.15, 40).answer is Answer.FASTER for _ in range(200)) > 190


def test_one_outlier_decides_nothing():
    seen = paired_ratio([(100, 101), (100, 99), (100, 600), (100, 100)])
    assert seen.answer is Answer.UNDECIDED
    assert not seen.is_taken


@pytest.mark.parametrize("pairs", [1, 2])
def test_fewer_than_three_pairs_tell_nothing_for_sure(pairs):
    seen = paired_ratio([(100, 200)] * pairs)
    assert seen.interval == (0.0, math.inf)
    assert seen.answer is Answer.UNDECIDED
    assert seen.is_taken is (pairs == 2)


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), min_size=1, max_size=30), st.floats(0.01, 100))
def test_the_unit_of_the_rates_and_their_order_do_not_matter(pairs, unit):
    seen, scaled = paired_ratio(pairs), paired_ratio([(own * unit, other * unit) for own, other in pairs])
    assert scaled.ratio == pytest.approx(seen.ratio)
    swapped = paired_ratio([(other, own) for own, other in pairs])
    assert swapped.ratio == pytest.approx(1 / seen.ratio)
    assert 0 <= seen.slower_chance <= 1
    assert seen.interval[0] <= seen.ratio <= seen.interval[1]
