"""What-ifs from what a plan stores, and what they say to buy."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from situations import freedoms, situations

from plumb.core.plan import SampleCost
from plumb.host import Limits
from plumb.host.limits import LOWERABLE
from plumb.model import planner
from plumb.model.inputs import CutCost, Footprint, ModelInputs, RemainingCpuShare, SearchSpace
from plumb.model.serialization import from_plain, to_plain
from plumb.model.whatif import AssumedHost, forecast

COST = SampleCost(2e-3, 2e-3, 0.0, 1e-5, 6e5, 0.03)
SITUATION = ModelInputs(
    COST, COST, Footprint(4e7, 2, 5e7, 3e8, 30), Limits(cpus=2, memory_bytes=8e9, shm_bytes=4e9), 5000.0
)
FREEDOM = SearchSpace(tuple(range(5)))


@st.composite
def told(draw):
    inputs = draw(situations)
    return inputs, draw(freedoms(inputs))


@settings(max_examples=50)
@given(told())
def test_what_the_model_was_told_survives_its_plan(given_):
    inputs, search_space = given_
    read, read_freedom = from_plain(json.loads(json.dumps(to_plain(inputs, search_space), allow_nan=False)))
    assert read_freedom == search_space
    assert dataclasses.replace(read, limits=inputs.limits) == inputs
    for name in LOWERABLE:
        assert getattr(read.limits, name) == getattr(inputs.limits, name)


@pytest.mark.parametrize(
    "data", [{}, {"situation": {}}, {"situation": {"limits": {}}, "freedom": {}}, {"situation": 3}]
)
def test_anything_else_gives_one_line(data):
    with pytest.raises(ValueError) as caught:
        from_plain(data)
    assert "\n" not in str(caught.value)


def test_a_cpu_bound_loader_wants_cores_until_its_step_binds():
    here = forecast(SITUATION, FREEDOM, AssumedHost())
    assert here.prediction.bottleneck == "cpu"
    assert [purchase.what for purchase in here.purchases] == ["cores"]
    there = forecast(SITUATION, FREEDOM, AssumedHost(cpus=32))
    assert there.best.samples_per_second > 2 * here.best.samples_per_second
    assert there.best.config.num_workers > 4, "the worker counts are those of the other host"
    assert there.is_fed
    assert there.purchases == ()


def test_a_store_that_does_not_fit_wants_memory():
    cut = CutCost("decode", 1e6, RemainingCpuShare(0.05, 0.05), 0.0, 1e-4)
    inputs = dataclasses.replace(SITUATION, cuts=(cut,), dataset_samples=1e4)
    search_space = dataclasses.replace(FREEDOM, caches=(None, planner.cache_choice(cut, 2e9, 1e4)))
    here = forecast(inputs, search_space, AssumedHost())
    assert "memory" in [purchase.what for purchase in here.purchases]
    there = forecast(inputs, search_space, AssumedHost(memory_bytes=64e9))
    assert there.best.config.cache.hit_ratio == 1.0
    assert there.best.samples_per_second > here.best.samples_per_second
    assert there.filling_samples_per_second < there.best.samples_per_second


def test_where_nothing_fits_the_limits_are_named():
    nothing = forecast(SITUATION, FREEDOM, AssumedHost(memory_bytes=1e6))
    assert nothing.best is None
    assert nothing.excluded["memory"] == nothing.considered


def test_an_iterable_dataset_keeps_its_worker_count():
    assert forecast(SITUATION, SearchSpace((2,)), AssumedHost(cpus=32)).best.config.num_workers == 2
