"""Sentences say no more than what was measured."""

import math

from plumb.core.config import Config
from plumb.tuning.explanations import undecided
from plumb.tuning.measure.paired_comparison import PairedRatio

CANDIDATE = Config(2, 2)


def said(ratio, interval):
    return undecided(CANDIDATE, PairedRatio(ratio, interval, 3, 0.2), None, 0.0, 10.0)


def test_what_was_slower_in_pairs_is_not_said_to_be_better():
    assert "may be better" in said(1.2, (0.8, 1.7))
    sentence = said(0.28, (0.1, 1.2))
    assert "may be better" not in sentence
    assert sentence.startswith("whether num_workers=2, prefetch_factor=2 is better is open")


def test_bounds_that_tell_nothing_are_not_printed():
    for interval, why in (((1e-9, 1e6), "too unequal"), ((0.0, math.inf), "too few")):
        sentence = said(2.7, interval)
        assert why in sentence
        assert "1000000" not in sentence
    assert "0.80 to 1.70 in 3 pairs" in said(1.2, (0.8, 1.7))
