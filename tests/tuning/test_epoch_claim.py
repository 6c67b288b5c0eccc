"""What a plan claims of whole epochs, from what its loop reached while it ran and what epochs cost."""

from types import SimpleNamespace

import pytest

from plumb.core.config import CacheChoice, Config
from plumb.core.plan import Claim, EndToEnd, SampleCost
from plumb.host import Limits
from plumb.model.inputs import CutCost, Footprint, ModelInputs, RemainingCpuShare
from plumb.tuning.epoch_claim import claim_of, is_worth_having
from plumb.tuning.epoch_rehearsal import NO_COSTS, EpochCosts
from tests.runtime.test_clocked_runs import entry

COST = SampleCost(0.01, 0.01, 0.0, 1e-5, 1e4, 1.0)
LOOP = EndToEnd(90.0, 270.0, (85.0, 95.0), (260.0, 280.0), 0.9, 0.3)


def claimed(costs=NO_COSTS, samples=1000.0, loop=LOOP, config=None, step=1000.0, cuts=()):
    inputs = ModelInputs(COST, COST, Footprint(1e4, 1, 1e7, 1e8, 10), Limits(cpus=2), step, 0.0, samples, cuts=cuts)
    planned = entry(config or Config(4, 2), Config())
    return claim_of(planned, SimpleNamespace(inputs=inputs), loop, costs, samples)


def test_without_costs_epochs_are_as_fast_as_their_batches():
    claim = claimed()
    assert (claim.own, claim.first, claim.later) == pytest.approx((90.0, 270.0, 270.0))
    assert claim.gain == pytest.approx(3.0)
    assert is_worth_having(claim)


def test_starts_are_spread_over_the_epoch_that_has_them():
    claim = claimed(EpochCosts(first=5.0, second=3.0, later=1.0, own=2.0))
    assert claim.first == pytest.approx(1000 / (1000 / 270 + 5))
    assert claim.second == pytest.approx(1000 / (1000 / 270 + 3))
    assert claim.later == pytest.approx(1000 / (1000 / 270 + 1))
    assert claim.own == pytest.approx(1000 / (1000 / 90 + 2))


def test_an_endless_epoch_has_no_starts():
    claim = claimed(EpochCosts(5.0, 1.0, 1.0, 2.0), samples=None)
    assert (claim.own, claim.later) == pytest.approx((90.0, 270.0))


@pytest.mark.parametrize(("later", "first", "is_worth"), [(0.1, 0.1, True), (2.0, 2.0, False), (0.0, 25.0, False)])
def test_what_starts_eat_up_is_not_worth_having(later, first, is_worth):
    """Epochs of 200 samples take 2.2 s of the user's own, and 0.74 s of the plan's while it runs."""
    assert is_worth_having(claimed(EpochCosts(first, later, later, 0.0), samples=200.0)) is is_worth


def test_the_first_epoch_fills_the_store():
    config = Config(cache=CacheChoice("decode", "memory", 2**20, 1.0))
    cut = CutCost("decode", 1e4, RemainingCpuShare(0.05, 0.04), wait_share=0.0, write_seconds=1e-3)
    claim = claimed(config=config, cuts=(cut,))
    assert claim.later == pytest.approx(270.0)
    assert claim.first < 95.0


def test_a_loader_that_was_tuned_alone_claims_its_own_rates():
    claim = claimed(EpochCosts(5.0, 1.0, 1.0, 2.0), loop=None)
    assert claim == Claim(100.0, 200.0, 200.0, 200.0, is_of_loop=False)
