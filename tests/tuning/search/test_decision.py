"""The decision: never a configuration that is not measured to be better, never a dear one where a cheap one does."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from plumb.core.config import Config
from plumb.core.plan import Rate, SampleCost
from plumb.host import Limits
from plumb.model.inputs import Footprint, ModelInputs
from plumb.model.planner import cost_order
from plumb.tuning.measure.throughput import Chunk
from plumb.tuning.search import decision
from plumb.tuning.search.ledger import Ledger, TrialResult

COST = SampleCost(1e-3, 1e-3, 0.0, 1e-5, 1e3, 1.0)
SITUATION = ModelInputs(COST, COST, Footprint(1e4, 1, 1e7, 1e8, 10), Limits(cpus=4))

rates = st.floats(1, 1e5)
readings = st.builds(
    lambda workers, prefetch, rate, spread: TrialResult(
        Config(workers, prefetch if workers else None), Rate(rate, (rate * (1 - spread), rate * (1 + spread))), rate, ""
    ),
    st.integers(0, 16),
    st.sampled_from([2, 4, 8]),
    rates,
    st.floats(0, 0.3),
)


@given(readings, st.lists(readings, max_size=8))
def test_finalists_are_few_promise_more_and_hold_the_best(own, others):
    finals = decision.finalists(SITUATION, own, others)
    assert finals[0] is own
    assert len(finals) <= 3
    best = max((reading.loop_rate for reading in others), default=0.0)
    if best > own.loop_rate:
        assert all(reading.loop_rate > own.loop_rate for reading in finals[1:])
        assert finals[1].loop_rate >= best * (1 - decision.EQUAL)
    for reading in finals[1:]:
        assert reading.loop_rate > own.loop_rate * (1 - decision.NOISE)


def test_what_should_be_faster_and_was_slower_by_no_more_than_noise_is_measured_again():
    """The model promises twice as much with two workers, and no more with prefetching alone."""
    own = TrialResult(Config(), Rate(1000.0, (950.0, 1050.0)), 1000.0, "")
    near, promised = (TrialResult(Config(count, 2), Rate(950.0, (800.0, 1100.0)), 950.0, "") for count in (1, 2))
    far = dataclasses.replace(promised, loop_samples_per_second=500.0)
    assert decision.finalists(SITUATION, own, [near, promised]) == [own, promised]
    assert decision.finalists(SITUATION, own, [near, far]) == [own]


@given(st.lists(readings, min_size=1, max_size=8))
def test_the_winner_is_equal_to_the_best_and_no_equal_is_cheaper(finals):
    won, best = decision.winner(finals), max(finals, key=lambda reading: reading.loop_rate)
    is_equal = won.loop_rate >= best.loop_rate * (1 - decision.EQUAL)
    assert is_equal or won.loader.interval[1] >= best.loader.samples_per_second
    equals = [reading for reading in finals if reading.loop_rate >= best.loop_rate * (1 - decision.EQUAL)]
    assert cost_order(won.config) <= min(cost_order(reading.config) for reading in equals)


def test_what_is_hardly_slower_and_not_told_apart_from_the_best_wins_where_it_is_cheaper():
    best = TrialResult(Config(2, 8), Rate(1000.0, (950.0, 1050.0)), 1000.0, "")
    near, apart = (TrialResult(Config(2, 2), Rate(975.0, (950.0, high)), 975.0, "") for high in (1010.0, 990.0))
    less = TrialResult(Config(2, 2), Rate(950.0, (850.0, 1100.0)), 950.0, "")
    assert decision.winner([best, near]) == near
    assert decision.winner([best, apart]) == decision.winner([best, less]) == best


def test_rates_are_told_apart_where_the_highest_is_known_or_all_are_equal():
    assert decision.are_distinguishable([(950.0, 1050.0)])
    assert decision.are_distinguishable([(950.0, 1050.0), (1060.0, 1100.0), (800.0, 990.0)])
    assert decision.are_distinguishable([(995.0, 1005.0), (990.0, 1000.0)])
    assert not decision.are_distinguishable([(950.0, 1050.0), (1040.0, 1100.0)])
    assert not decision.are_distinguishable([(900.0, 1100.0), (900.0, 1100.0)])


def test_what_differs_in_the_restart_of_workers_alone_takes_no_place_in_the_finals():
    own = TrialResult(Config(), Rate(100.0, (95.0, 105.0)), 100.0, "")
    lasting, restarted = (
        TrialResult(Config(2, 2, persistent_workers=lasts), Rate(rate, (rate - 1, rate + 1)), rate, "")
        for lasts, rate in ((True, 1000.0), (False, 950.0))
    )
    other = TrialResult(Config(1, 2), Rate(940.0, (930.0, 950.0)), 940.0, "")
    assert decision.finalists(SITUATION, own, [lasting, restarted, other]) == [own, lasting, other]
    equal = dataclasses.replace(restarted, loop_samples_per_second=990.0)
    assert decision.finalists(SITUATION, own, [lasting, equal]) == [own, equal]


@given(readings, readings)
def test_better_means_that_the_intervals_lie_apart(one, other):
    assert not decision.is_better(SITUATION, one, one)
    if decision.is_better(SITUATION, one, other):
        assert one.loader.interval[0] > other.loader.interval[1]
        assert not decision.is_better(SITUATION, other, one)


@given(readings, readings)
def test_what_is_beyond_any_drift_is_far_faster_and_better(own, other):
    assert not decision.is_beyond_drift([own, own])
    if decision.is_beyond_drift([own, other]):
        assert other.loader.samples_per_second > 2 * own.loader.samples_per_second
    failed = TrialResult(Config(2, 2), None, None, "failed")
    assert not decision.is_beyond_drift([failed, other])


def test_where_turns_are_too_late_only_what_needs_none_is_left():
    own, restarted, faster, far_faster = (
        TrialResult(config, Rate(rate, (0.9 * rate, 1.1 * rate)), rate, "")
        for config, rate in (
            (Config(1, 2, persistent_workers=True), 110.0),
            (Config(1, 2), 100.0),
            (Config(2, 2), 200.0),
            (Config(4, 2), 1000.0),
        )
    )
    assert decision.ranked_without_interleaving([own, restarted], -100.0) == [own, restarted], (
        "they would tell nothing new"
    )
    for others in ([faster], [restarted, faster], [far_faster]):
        assert decision.ranked_without_interleaving([own, *others], -1.0) is None
    assert decision.ranked_without_interleaving([own, faster], 1.0) is None
    assert decision.ranked_without_interleaving([own, restarted, faster], 60.0) == [own, restarted]
    assert decision.ranked_without_interleaving([own, far_faster, faster], 1.0) == [own, far_faster, faster]
    assert decision.ranked_without_interleaving([own, far_faster, faster], 60.0) == [own, far_faster, faster]


def test_what_could_not_be_measured_is_never_better():
    failed = TrialResult(Config(2, 2), None, None, "failed")
    own = TrialResult(Config(), Rate(10.0, (9.0, 11.0)), 10.0, "")
    assert not decision.is_better(SITUATION, failed, own)
    assert decision.winner([own, failed]) is own


def test_restarts_cost_only_workers_that_do_not_persist():
    told = []
    ledger = Ledger(epoch_samples=100.0, seed=0, on_trial=told.append)
    config = Config(2, 2)
    restarting = ledger.measured(SITUATION, config, [Chunk(100, 1.0)] * 5, start_seconds=1.0)
    lasting = dataclasses.replace(config, persistent_workers=True)
    assert ledger.knows(lasting)
    assert not ledger.knows(Config(3, 2))
    assert restarting.loader.samples_per_second == 50.0, "100 samples in one second, after one second of starting"
    assert ledger.amortized_result(SITUATION, lasting).loader.samples_per_second == 100.0
    assert [trial.config for trial in told] == [config, lasting]
    assert ledger.slowest_start_seconds == 1.0


def test_what_is_slower_alone_is_left_to_the_loop_itself():
    """Fewer workers leave the cores to a step that computes: by the model, and nothing has shown it."""
    inputs = dataclasses.replace(
        SITUATION, limits=Limits(cpus=2), step_samples_per_second=500.0, step_cpu_seconds=3e-3, step_blocks=True
    )
    own = TrialResult(Config(2, 2), Rate(172.0, (170.0, 174.0)), 100.0, "")
    fewer = TrialResult(Config(1, 2), Rate(149.0, (148.0, 150.0)), 140.0, "")
    assert not decision.is_better(inputs, fewer, own)
