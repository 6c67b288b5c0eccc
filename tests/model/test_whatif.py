"""What-ifs from what a plan stores, and what they say to buy."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from situations import freedoms, situations

from plumb.core.config import Config
from plumb.core.plan import SampleCost
from plumb.host import Limits
from plumb.host.limits import LOWERABLE
from plumb.model import planner
from plumb.model.calibration import Calibration
from plumb.model.cpu_contention import CpuCompetition
from plumb.model.inputs import (
    CutCost,
    Footprint,
    ModelInputs,
    RemainingCpuShare,
    SearchSpace,
    StorageBandwidth,
    ThreadsCost,
)
from plumb.model.serialization import from_plain, to_plain
from plumb.model.whatif import AssumedHost, InUse, forecast, over_cores

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


# ---- more is never less


multiples = st.sampled_from([1 / 16, 0.4, 1.0, 1.3, 4.0]) | st.floats(0.01, 64)
hosts = st.fixed_dictionaries(
    {"cpus": multiples, "memory": multiples, "step": st.none() | st.floats(1, 1e6), "disk": multiples}
)


def host_of(inputs, wanted):
    return AssumedHost(
        wanted["cpus"] * inputs.limits.cpus,
        wanted["memory"] * inputs.limits.memory_bytes,
        wanted["step"],
        wanted["disk"],
    )


def uses(inputs, search_space):
    """The model's own best in use, at any rate that may have been measured."""
    best = planner.fastest(search_space, inputs)
    return st.none() | st.builds(InUse, st.just(best.config or Config()), st.floats(0.1, 1e6))


more = given(told(), hosts, st.sampled_from(["cpus", "memory", "step", "disk"]), st.floats(1, 16), st.data())


@settings(max_examples=8)
@more
def test_more_of_a_resource_never_predicts_less(given_, wanted, which, times, data):
    inputs, search_space = given_
    few = dataclasses.replace(search_space, pin_memory=(False,), worker_torch_threads=(1,), in_order=(True,))
    check_that_more_is_never_less((inputs, few), wanted, which, times, data)


@pytest.mark.slow
@settings(max_examples=60)
@more
def test_more_of_a_resource_never_predicts_less_whatever_it_is(given_, wanted, which, times, data):
    check_that_more_is_never_less(given_, wanted, which, times, data)


def check_that_more_is_never_less(given_, wanted, which, times, data):
    inputs, search_space = given_
    used = data.draw(uses(inputs, search_space))
    if wanted[which] is None:
        wanted = {**wanted, which: 100.0}
    hosts_ = [host_of(inputs, each) for each in (wanted, {**wanted, which: times * wanted[which]})]
    rates = [
        found.best.samples_per_second if found.best else 0.0
        for found in (forecast(inputs, search_space, host, used) for host in hosts_)
    ]
    assert rates[1] >= rates[0] * (1 - 1e-9)


WAITING = SampleCost(3e-3, 1e-3, 2e-3, 1e-5, 6e5, 0.03)
CONTENDING = ThreadsCost(8, None, 0.5, 0.2, 1.5, 1e-3, 1e-4)


@pytest.mark.parametrize(
    ("changes", "fetch"),
    [
        ({"calibration": Calibration(crowding=-0.3, crowded_cpu_seconds=1e-3)}, ((1, None),)),
        ({"calibration": Calibration(crowding=3.0, crowded_cpu_seconds=1e-3)}, ((1, None),)),
        ({"threads": (CONTENDING,)}, ((8, None),)),
        ({"cost": WAITING, "cost_in_worker": WAITING, "threads": (CONTENDING,)}, ((1, None), (8, None))),
        ({"competition": CpuCompetition(2.0, 1.5, 0.5)}, ((1, None),)),
    ],
    ids=["crowds gain", "crowds lose", "threads contend", "samples wait", "others compute"],
)
@pytest.mark.parametrize("counts", [tuple(range(5)), (3,)])
def test_more_cores_never_predict_less_where_the_model_s_bounds_might(changes, fetch, counts):
    inputs = dataclasses.replace(SITUATION, step_samples_per_second=1e5, **changes)
    search_space = SearchSpace(counts, fetch=fetch)
    rows = over_cores(inputs, search_space, AssumedHost(), None, [0.3, 0.9, 1, 1.01, 1.5, 2, 2.5, 3, 4, 5, 8, 64])
    rates = [row.forecast.best.samples_per_second for row in rows]
    assert rates == sorted(rates)
    assert rates[-1] > rates[0]


@settings(max_examples=8)
@given(told(), hosts, st.data())
def test_what_limits_and_what_to_buy_have_one_cause(given_, wanted, data):
    inputs, search_space = given_
    found = forecast(inputs, search_space, host_of(inputs, wanted), data.draw(uses(inputs, search_space)))
    if found.best is None:
        assert found.purchases == ()
        return
    assert found.prediction.bottleneck == found.limited_by
    assert found.is_fed == (found.limited_by == "step")
    assert not (found.is_fed and found.purchases)
    limits = {"cores": "cpu", "memory": "memory", "disk bandwidth": "storage"}
    if found.purchases:
        assert found.limited_by == limits[found.purchases[0].what]
        assert all(each.samples_per_second > 1.04 * found.best.samples_per_second for each in found.purchases)
    else:
        assert found.limited_by in ("step", "main process", "workers", "transfer")


def test_on_the_plan_s_own_host_the_plan_is_what_is_forecast():
    used = InUse(Config(2, 4, persistent_workers=True), 900.0)
    here = forecast(SITUATION, FREEDOM, AssumedHost(), used)
    assert here.is_here
    assert (here.best.config, here.best.samples_per_second) == (used.config, 900.0)
    same = forecast(SITUATION, FREEDOM, AssumedHost(cpus=2, memory_bytes=8e9), used)
    assert same == here
    twice = forecast(SITUATION, FREEDOM, AssumedHost(cpus=4), used)
    assert not twice.is_here
    assert 1600 < twice.best.samples_per_second < 2000, "what was measured corrects what the model thinks samples cost"


@pytest.mark.parametrize(
    ("changes", "counts", "limited_by"),
    [
        ({"step_samples_per_second": 100.0}, range(5), "step"),
        ({}, (0,), "main process"),
        ({"cost_in_worker": dataclasses.replace(COST, main_seconds=1e-3)}, range(5), "main process"),
        (
            {"step_blocks": True, "cost_in_worker": dataclasses.replace(COST, main_seconds=1e-4)},
            range(5),
            "main process",
        ),
        ({"transfer_bytes_per_second": 6e8}, range(5), "transfer"),
        ({"cost_in_worker": dataclasses.replace(COST, wait_seconds=1.0)}, (4,), "workers"),
        ({"read_bytes": 1e6, "storage": StorageBandwidth((1.0, 4.0), (1e8, 2e8))}, range(5), "storage"),
    ],
)
def test_what_limits_a_large_host_is_what_there_is_no_more_of(changes, counts, limited_by):
    cost = changes.get("cost_in_worker", COST)
    inputs = dataclasses.replace(SITUATION, **{**changes, "cost": dataclasses.replace(cost, main_seconds=0.0)})
    found = forecast(inputs, SearchSpace(tuple(counts)), AssumedHost(cpus=64))
    assert found.limited_by == limited_by
    assert bool(found.purchases) == (limited_by == "storage")


def test_a_loop_that_was_measured_far_slower_than_the_model_says_is_no_faster_elsewhere_by_that():
    slow = InUse(Config(2, 2), 20.0)
    twice = forecast(SITUATION, FREEDOM, AssumedHost(cpus=4), slow)
    assert 30 < twice.best.samples_per_second < 50


def test_cores_are_told_one_below_the_other():
    rows = over_cores(SITUATION, FREEDOM, AssumedHost())
    assert [row.cpus for row in rows] == [4, 8, 16, 32]
    rates = [row.forecast.best.samples_per_second for row in rows]
    assert rates == sorted(rates)
    assert rows[0].forecast.limited_by == "cpu"
    assert rows[-1].forecast.limited_by == "step"


def test_a_store_that_is_left_out_has_a_reason():
    cut = CutCost("decode", 1e6, RemainingCpuShare(0.05, 0.05), 0.0, 1e-4)
    inputs = dataclasses.replace(SITUATION, cuts=(cut,), dataset_samples=1e3)
    store = planner.cache_choice(cut, 2e9, 1e3)
    search_space = dataclasses.replace(FREEDOM, caches=(None, store))
    used = InUse(Config(2, 2, cache=store), 4000.0)
    assert forecast(inputs, search_space, AssumedHost(), used).without_store == ""
    small = forecast(inputs, search_space, AssumedHost(memory_bytes=7e8), used)
    assert small.best.config.cache is None or small.best.config.cache.hit_ratio < 1
    tiny = forecast(inputs, search_space, AssumedHost(memory_bytes=6e8), used)
    assert tiny.best is None or tiny.best.config.cache or "free for stores" in tiny.without_store


def test_a_step_on_this_cpu_that_gets_faster_takes_less_of_it():
    inputs = dataclasses.replace(SITUATION, step_samples_per_second=1000.0, step_cpu_seconds=1e-3)
    slow, fast = (
        forecast(inputs, FREEDOM, AssumedHost(cpus=8, step_samples_per_second=step)).best for step in (1000, 8000)
    )
    assert fast.samples_per_second > 2 * slow.samples_per_second


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf")])
def test_an_assumption_that_can_t_be_meant_is_refused(wrong):
    with pytest.raises(ValueError, match="finite number above 0"):
        AssumedHost(cpus=wrong)
