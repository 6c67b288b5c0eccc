"""The plan file: what is written is read again, and nothing that isn't a plan passes for one."""

import dataclasses
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plumb.core import plan
from plumb.core.config import Config
from plumb.core.plan import EndToEnd, LoaderResult, Measured, Plan, PlanError, Prediction, SampleCost, Trial

rates = st.floats(0.001, 1e9)
intervals = st.tuples(rates, rates)
configs = st.builds(
    Config,
    num_workers=st.integers(0, 64),
    prefetch_factor=st.none() | st.integers(1, 16),
    persistent_workers=st.booleans(),
    pin_memory=st.booleans(),
    start_method=st.sampled_from([None, "spawn", "forkserver"]),
    in_order=st.booleans(),
    cache=st.none(),
    deferred=st.just(()),
)
measured = st.builds(Measured, config=configs, samples_per_second=rates, interval=intervals)
shares = st.none() | st.floats(0, 1)
loader_plans = st.builds(
    LoaderResult,
    baseline=measured,
    tuned=measured,
    predicted=st.builds(
        Prediction, rates, st.sampled_from(["cpu", "step"]), st.just({"cpu": 1.0}), st.just({"cpu": 2.0})
    ),
    end_to_end=st.none() | st.builds(EndToEnd, rates, rates, intervals, intervals, shares, shares),
    sample=st.none() | st.builds(SampleCost, *[rates] * 6),
    trials=st.lists(st.builds(Trial, configs, rates, rates, intervals, st.text()), max_size=3).map(tuple),
    samples_per_batch=rates,
    step_samples_per_second=st.none() | rates,
    graph=st.none(),
    device=st.none(),
    notes=st.lists(st.text(), max_size=2).map(tuple),
)
plans = st.builds(
    Plan,
    host=st.just({"cpus": 2}),
    tuning_seconds=rates,
    startup_seconds=rates,
    loaders=st.lists(loader_plans, max_size=3).map(tuple),
    written_files=st.lists(st.text(), max_size=2).map(tuple),
    version=st.just(plan.VERSION),
)


@pytest.mark.slow
@given(plans)
def test_a_plan_survives_its_file(written):
    assert plan.decode(plan.encode(written)) == written


@given(plans)
def test_unknown_keys_are_ignored(written):
    document = json.loads(plan.encode(written))
    document["added_later"] = {"anything": [1, 2]}
    assert plan.decode(json.dumps(document).encode()) == written


@given(st.binary(max_size=200))
@example(b'{"\x80": 1}')
def test_any_bytes_give_one_line(data):
    with pytest.raises(PlanError) as caught:
        plan.decode(data)
    assert "\n" not in str(caught.value)


@given(plans.filter(lambda p: p.loaders), st.data())
def test_a_damaged_plan_gives_one_line(written, data):
    document = json.loads(plan.encode(written))
    where = document["loaders"][0]
    key = data.draw(st.sampled_from(["baseline", "tuned", "predicted", "site"]))
    where[key] = data.draw(st.sampled_from([[], 3.5, {"config": 7}]))
    with pytest.raises(PlanError) as caught:
        plan.decode(json.dumps(document).encode())
    assert "\n" not in str(caught.value)


def test_another_version_says_what_to_do():
    with pytest.raises(PlanError, match=r"version 2.*Tune again"):
        plan.decode(b'{"version": 2}')


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(PlanError, match="plumb tune"):
        plan.read(tmp_path / "none.plumb.json")


def test_writing_leaves_the_old_plan_or_the_new_one_and_nothing_else(tmp_path):
    path = tmp_path / "train.plumb.json"
    first = Plan("a.py", {}, 1.0, 1.0, ())
    plan.write(first, path)
    with pytest.raises(TypeError):
        plan.write(dataclasses.replace(first, host={"bad": object()}), path)
    assert plan.read(path) == first
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@given(configs)
def test_a_configuration_is_accepted_by_torch(config):
    from torch.utils.data import DataLoader

    if config.num_workers and config.prefetch_factor is None:
        config = dataclasses.replace(config, prefetch_factor=2)
    loader = DataLoader(range(4), **config.loader_arguments())
    assert loader.num_workers == config.num_workers
    assert loader.in_order == config.in_order
