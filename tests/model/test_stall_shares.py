"""What a loop's waiting is for: shares that add up, put down to what costs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from situations import situations

from plumb.core.config import Config
from plumb.core.plan import SampleCost
from plumb.host import Limits
from plumb.model.cpu_contention import CpuCompetition
from plumb.model.inputs import Footprint, ModelInputs, StorageBandwidth
from plumb.model.resource_bounds import predict
from plumb.model.stall_shares import step_shares

configs = st.builds(
    Config,
    num_workers=st.integers(0, 8),
    prefetch_factor=st.just(2),
    fetch_threads=st.sampled_from([1, 8]),
    deferred=st.sampled_from([(), ("normalize",)]),
)
HALF = SampleCost(4e-3, 2e-3, 2e-3, 1e-4, 1e5, 1.0)
PLAIN = ModelInputs(HALF, replace(HALF, main_seconds=1e-4), Footprint(1e6, 2, 1e7, 1e8, 10), Limits(cpus=64), 1000.0)


@given(situations, configs, st.floats(1, 1e5), st.floats(0, 1))
def test_the_shares_add_up_to_the_step(inputs, config, rate, waiting):
    shares = step_shares(inputs, config, rate, waiting)
    assert shares.step == 1 - waiting
    assert shares.step + shares.read + shares.compute + shares.transfer == pytest.approx(1)
    assert min(shares.read, shares.compute, shares.transfer) >= 0


def test_without_workers_the_loop_waits_for_what_a_sample_does():
    alone = replace(PLAIN, cost=replace(HALF, main_seconds=0.0))
    shares = step_shares(alone, Config(), 200.0, 0.8)
    assert shares.read == pytest.approx(0.4)
    assert shares.compute == pytest.approx(0.4)
    assert shares.transfer == 0


def test_without_workers_it_waits_for_both_however_few_cores_others_leave():
    crowded = replace(PLAIN, limits=Limits(cpus=2), competition=CpuCompetition(2.0, 1.9, 0.0))
    assert predict(crowded, Config()).bottleneck == "cpu"
    shares = step_shares(crowded, Config(), 100.0, 0.5)
    assert shares.read == pytest.approx(shares.compute)
    assert shares.read > 0.2


def test_taking_batches_over_is_never_hidden():
    shares = step_shares(PLAIN, Config(2, 2), 500.0, 0.5)
    assert shares.transfer == pytest.approx(500.0 * 1e-4)


def test_what_binds_is_what_is_waited_for():
    few_cores = replace(PLAIN, limits=Limits(cpus=1))
    assert step_shares(few_cores, Config(8, 2), 450.0, 0.5).read == 0
    slow = replace(PLAIN, read_bytes=1e6, storage=StorageBandwidth((1.0, 64.0), (1e8, 3e8)))
    assert step_shares(slow, Config(8, 2), 250.0, 0.5).compute == 0
    busy = replace(PLAIN, cost_in_worker=replace(HALF, main_seconds=5e-3))
    assert step_shares(busy, Config(8, 2), 150.0, 0.5).transfer == 0.5
