"""The bounds: what no pipeline and no host can exceed."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from situations import costs, places, situations

from plumb.core.config import CacheChoice, Config
from plumb.core.plan import SampleCost
from plumb.host import Limits
from plumb.model import resource_bounds
from plumb.model.calibration import Calibration
from plumb.model.demand import demand, least_cpu_seconds
from plumb.model.inputs import (
    AllocatorGain,
    CutCost,
    DeferralCost,
    Footprint,
    ModelInputs,
    RemainingCpuShare,
    StorageBandwidth,
    ThreadsCost,
)

FOOTPRINT = Footprint(1.0, 1, 0.0, 0.0, 0)


@given(places())
def test_the_smallest_bound_is_the_prediction_and_fully_used(place):
    inputs, _, config = place
    if not resource_bounds.bounds(inputs, config):
        return
    predicted = resource_bounds.predict(inputs, config)
    assert predicted.samples_per_second == min(predicted.bounds.values())
    assert predicted.utilization[predicted.bottleneck] == pytest.approx(1.0)
    assert all(0 <= share <= 1 + 1e-9 for share in predicted.utilization.values())
    larger = [limit for limit in predicted.bounds.values() if limit > predicted.samples_per_second * 1.001]
    assert predicted.bounds.get(predicted.then) == (min(larger) if larger else None)


@given(places(), st.sampled_from(["cpus", "step", "storage", "transfer"]), st.floats(1, 10))
def test_more_of_a_resource_never_lowers_a_bound(place, what, factor):
    inputs, _, config = place
    threads = tuple(
        dataclasses.replace(one, crowded_time_factor=max(one.time_factor, one.crowded_time_factor))
        for one in inputs.threads
    )
    inputs = dataclasses.replace(inputs, calibration=Calibration(0.0, 0.0), threads=threads)
    more = inputs
    if what == "cpus":
        more = dataclasses.replace(inputs, limits=dataclasses.replace(inputs.limits, cpus=inputs.limits.cpus * factor))
    elif what == "step" and inputs.step_samples_per_second:
        more = dataclasses.replace(inputs, step_samples_per_second=inputs.step_samples_per_second * factor)
    elif what == "transfer" and inputs.transfer_bytes_per_second:
        more = dataclasses.replace(inputs, transfer_bytes_per_second=inputs.transfer_bytes_per_second * factor)
    elif what == "storage" and inputs.storage:
        faster = tuple(factor * rate for rate in inputs.storage.bytes_per_second)
        more = dataclasses.replace(inputs, storage=StorageBandwidth(inputs.storage.outstanding, faster))
    before, after = resource_bounds.bounds(inputs, config), resource_bounds.bounds(more, config)
    assert all(after[resource] >= before[resource] * (1 - 1e-9) for resource in before)


@given(situations, st.integers(1, 63))
def test_more_workers_never_lower_a_bound_where_they_do_not_disturb_each_other(inputs, workers):
    inputs = dataclasses.replace(inputs, calibration=Calibration(0.0, 0.0))
    fewer = resource_bounds.bounds(inputs, Config(workers, 2))
    more = resource_bounds.bounds(inputs, Config(workers + 1, 2))
    assert all(more[resource] >= fewer[resource] * (1 - 1e-9) for resource in fewer)


@given(costs, st.floats(0.1, 64), st.floats(0, 1))
def test_cpu_seconds_are_never_overdrawn(cost, cores, step_cpu):
    inputs = ModelInputs(
        cost,
        cost,
        FOOTPRINT,
        Limits(cpus=cores),
        step_cpu_seconds=step_cpu,
        calibration=Calibration(0.0, 0.0),
    )
    bound = resource_bounds.bounds(inputs, Config(64, 2))["cpu"]
    assert bound * (cost.cpu_seconds + cost.main_seconds + step_cpu) == pytest.approx(cores)


@pytest.mark.parametrize(("blocks", "expected"), [(False, 100.0), (True, 1 / (10e-3 + 4e-3))])
def test_a_step_that_blocks_takes_no_batch_over_meanwhile(blocks, expected):
    cost = SampleCost(1e-3, 1e-3, 0.0, 4e-3, 0.0, 0.0)
    inputs = ModelInputs(cost, cost, FOOTPRINT, Limits(cpus=4), step_samples_per_second=100.0, step_blocks=blocks)
    assert resource_bounds.predict(inputs, Config(2, 2)).bottleneck == "step"
    assert resource_bounds.expected_rate(inputs, Config(2, 2)) == pytest.approx(expected)
    assert resource_bounds.fed_rate(inputs) == pytest.approx(expected)


def test_the_bounds_of_the_design_s_first_check():
    # 2.17 ms of worker CPU and 0.2 ms in the main process, two cores: 843 samples per second were measured.
    cost = SampleCost(2.17e-3, 2.17e-3, 0.0, 0.2e-3, 0.0, 0.0)
    crowded = Calibration(oversubscription=0.25)
    inputs = ModelInputs(cost, cost, FOOTPRINT, Limits(cpus=2), calibration=crowded)
    predicted = resource_bounds.predict(inputs, Config(2, 2))
    assert predicted.bottleneck == "cpu"
    assert predicted.then == "workers"
    assert predicted.samples_per_second == pytest.approx(2 / 2.37e-3)
    beyond = [resource_bounds.loader_rate(inputs, Config(workers, 2)) / 843 for workers in (3, 4)]
    assert beyond == pytest.approx([770 / 843, 757 / 843], abs=0.03), (
        "what more workers than cores were measured to lose"
    )


@given(places(), st.floats(1, 1e6))
def test_a_loop_is_no_faster_than_its_loader_or_its_step(place, loader):
    inputs, _, config = place
    loop = resource_bounds.loop_rate(inputs, config, loader)
    step = inputs.step_samples_per_second
    assert loop <= loader * (1 + 1e-9)
    if step:
        assert loop <= step * (1 + 1e-9)
        assert config.num_workers == 0 or loop <= resource_bounds.bounds(inputs, config)["step"]
        if config.num_workers == 0:
            assert 1 / loop == pytest.approx(1 / loader + 1 / step)


@given(places())
def test_fetch_threads_gain_what_was_measured_on_their_part_of_a_sample_alone(place):
    inputs, _, config = place
    wanted = demand(inputs, config)
    alone = dataclasses.replace(wanted, fetch_threads=1)
    assert wanted.seconds() <= alone.seconds() * max(1.0, wanted.time_factor) * (1 + 1e-9)
    if wanted.fetch_threads > 1:
        whole = wanted.cpu_seconds / wanted.speedup + wanted.wait_seconds
        threaded = min(wanted.threaded_seconds, whole)
        assert wanted.seconds() >= (whole - threaded) * (1 - 1e-9)
        assert wanted.seconds() >= threaded * wanted.time_factor * (1 - 1e-9)


def test_threads_that_contend_for_the_lock_on_free_cores_do_not_where_other_workers_keep_them_busy():
    cost = SampleCost(1e-4, 1e-4, 0.0, 1e-6, 1e3, 1.0)
    threads = (ThreadsCost(16, None, 5.0, 1.1, 1.1, 1e-4, 0.0),)
    inputs = ModelInputs(cost, cost, FOOTPRINT, Limits(cpus=4), threads=threads)
    bounds = [resource_bounds.bounds(inputs, Config(workers, 2, fetch_threads=16)) for workers in (1, 4)]
    assert bounds[0]["workers"] == pytest.approx(1 / (5.0 * 1e-4))
    assert bounds[1]["workers"] == pytest.approx(4 / (1.1 * 1e-4) / inputs.calibration.slow_down(4, 4))


def test_threads_reach_what_the_design_measured():
    # 20 ms of latency, batches of 64: 5,290 samples/s with 2 workers of 64 threads.
    cost = SampleCost(20.3e-3, 0.3e-3, 20e-3, 1e-5, 1e3, 1.0)
    inputs = ModelInputs(
        cost, cost, FOOTPRINT, Limits(cpus=2), threads=(ThreadsCost(64, None, 1 / 60, 1 / 60, 1.0, 0.25e-3, 0.05e-3),)
    )
    assert resource_bounds.loader_rate(inputs, Config(2, 2)) == pytest.approx(99, rel=0.02)
    assert 4000 < resource_bounds.loader_rate(inputs, Config(2, 2, fetch_threads=64)) < 7000


@given(situations, st.floats(0, 1))
def test_a_store_saves_what_was_hit_of_the_prefix(inputs, hit):
    inputs = dataclasses.replace(
        inputs, cost_in_worker=inputs.cost, calibration=Calibration(), allocator=None, fresh_seconds=0.0
    )
    cut = inputs.cuts[0]
    cached = demand(inputs, Config(2, 2, cache=CacheChoice(cut.after, "memory", 1, hit)))
    plain = demand(inputs, Config(2, 2))
    least = min(plain.cpu_seconds, least_cpu_seconds(plain.output_bytes))
    assert cached.cpu_seconds == pytest.approx(max(least, plain.cpu_seconds * (1 - hit * (1 - cut.left.plainly))))
    assert cached.wait_seconds == pytest.approx(plain.wait_seconds * (1 - hit * cut.wait_share))
    assert cached.read_bytes == pytest.approx(plain.read_bytes * (1 - hit))


def test_what_is_dearer_in_a_worker_is_saved_there_at_that_price():
    cost = SampleCost(2e-3, 2e-3, 0.0, 0.0, 1e5, 1.0)
    in_worker = SampleCost(3e-3, 3e-3, 0.0, 0.0, 1e5, 1.0)
    cut = CutCost("decode", 1e5, RemainingCpuShare(0.05, 0.04), 0.0, 1e-4)
    inputs = ModelInputs(cost, in_worker, FOOTPRINT, Limits(cpus=4), cuts=(cut,), dataset_samples=1e3)
    config = Config(2, 2, cache=CacheChoice("decode", "memory", 10**9, 1.0))
    assert demand(inputs, config).cpu_seconds == pytest.approx(0.05 * 3e-3), "a twentieth of the cost there"
    fresh = dataclasses.replace(inputs, fresh_seconds=1e-3, allocator=AllocatorGain(0.9, 0.0))
    assert demand(fresh, config).cpu_seconds == pytest.approx(0.05 * 3e-3), "what is handed over is a part of the share"
    reusing = dataclasses.replace(config, allocator_reuse=True)
    assert demand(fresh, reusing).cpu_seconds == pytest.approx(0.04 * 2e-3)


def test_what_a_worker_takes_in_reused_memory_is_what_was_seen_of_it():
    """As the main process does it, with one thread of torch's."""
    cost = SampleCost(2e-3, 2e-3, 0.0, 0.0, 1e5, 1.0)
    in_worker = SampleCost(3e-3, 3e-3, 0.0, 0.0, 1e5, 1.0)
    cut = CutCost("decode", 1e5, RemainingCpuShare(0.05, 0.04), 0.0, 1e-4)
    inputs = ModelInputs(
        cost, in_worker, FOOTPRINT, Limits(cpus=4), cuts=(cut,), allocator=AllocatorGain(0.8, 0.0, 1.6e-3)
    )
    config = Config(2, 2, allocator_reuse=True)
    assert demand(inputs, config).cpu_seconds == pytest.approx(1.6e-3)
    stored = dataclasses.replace(config, cache=CacheChoice("decode", "memory", 10**9, 1.0))
    assert demand(inputs, stored).cpu_seconds == pytest.approx(0.04 * 1.6e-3), "a share of one in reused memory"
    alone = dataclasses.replace(stored, num_workers=0, prefetch_factor=None)
    assert demand(inputs, alone).cpu_seconds == pytest.approx(0.04 * 2e-3 * 0.8)


@given(st.floats(0.3, 1.0), st.floats(0, 1))
def test_threads_that_keep_a_core_busy_take_less_of_it_as_far_as_samples_wait(factor, hit):
    cost = SampleCost(5e-3, 1e-3, 4e-3, 0.0, 1e4, 1.0)
    cut = CutCost("read", 1e4, RemainingCpuShare(1.0, 1.0), 1.0, 0.0)
    threads = ThreadsCost(16, None, 0.1, 0.1, factor, 1e-3, 0.0)
    inputs = ModelInputs(cost, cost, FOOTPRINT, Limits(cpus=4), cuts=(cut,), threads=(threads,), dataset_samples=1e3)
    waiting = Config(2, 2, fetch_threads=16)
    assert resource_bounds.capacities(inputs, demand(inputs, waiting), 2, 0.0)["cpu"] == pytest.approx(
        4 / (factor * 1e-3)
    )
    stored = dataclasses.replace(waiting, cache=CacheChoice("read", "memory", 10**9, hit))
    left = demand(inputs, stored)
    assert factor * 1e-3 <= (left.cpu_seconds + left.switching_cpu_seconds) * (1 + 1e-9)
    if hit > 0.8:
        assert left.switching_cpu_seconds == 0, "what hardly waits is not woken up"
    assert demand(inputs, Config(2, 2)).switching_cpu_seconds == 0


@given(st.integers(1, 64), st.integers(1, 16))
def test_workers_start_one_after_another_and_get_ready_at_once(workers, cores):
    cost = SampleCost(1e-3, 1e-3, 0.0, 0.0, 1.0, 1.0)
    limits = Limits(cpus=cores)
    inputs = ModelInputs(cost, cost, FOOTPRINT, limits, start_seconds_in_main=0.02, start_seconds_in_worker=3.0)
    assert inputs.start_seconds(workers) == pytest.approx(0.02 * workers + 3.0 * max(1.0, workers / cores))
    assert inputs.start_seconds(0) == 0.0


def test_deferring_takes_its_share_of_a_sample_and_of_what_is_handed_over():
    cost = SampleCost(2e-3, 2e-3, 0.0, 1e-4, 4e5, 1.0)
    deferral = DeferralCost(("normalize",), RemainingCpuShare(0.25, 0.2), 3e-4, 2e-4, 3e5)
    inputs = ModelInputs(
        cost,
        cost,
        dataclasses.replace(FOOTPRINT, tensors_per_batch=0),
        Limits(cpus=4),
        deferrals=(deferral,),
        allocator=AllocatorGain(0.5, 0.0),
        fresh_seconds=1e-3,
    )
    config = Config(2, 2, deferred=("normalize",))
    plainly, reusing = demand(inputs, config), demand(inputs, dataclasses.replace(config, allocator_reuse=True))
    assert plainly.cpu_seconds == pytest.approx(0.25 * 2e-3), "of the making and of the fresh memory together"
    assert plainly.main_seconds == pytest.approx(1e-4 + 3e-4)
    assert reusing.cpu_seconds == pytest.approx(0.2 * 2e-3)
    assert reusing.main_seconds == pytest.approx(1e-4 + 2e-4)
    assert plainly.output_bytes == reusing.output_bytes == 1e5


@given(st.booleans())
def test_a_main_process_without_workers_makes_and_finishes_a_batch_in_what_was_measured_of_it(reuses):
    cost = SampleCost(2e-3, 2e-3, 0.0, 0.0, 4e5, 1.0)
    deferral = DeferralCost(
        ("normalize",), RemainingCpuShare(0.25, 0.2, alone=RemainingCpuShare(0.9, 0.6)), 3e-4, 2e-4, 3e5
    )
    inputs = ModelInputs(
        cost, cost, FOOTPRINT, Limits(cpus=4), deferrals=(deferral,), allocator=AllocatorGain(0.5, 0.0)
    )
    alone = demand(inputs, Config(0, deferred=("normalize",), allocator_reuse=reuses))
    assert alone.cpu_seconds == pytest.approx(2e-3 * (0.5 * 0.6 if reuses else 0.9))
    assert alone.main_seconds == 0
    beside = demand(inputs, Config(2, 2, deferred=("normalize",), allocator_reuse=reuses))
    assert beside.main_seconds == pytest.approx(2e-4 if reuses else 3e-4)


@given(st.floats(0, 1), st.booleans())
def test_what_is_left_with_a_store_and_deferred_operators_is_what_was_measured_of_both(hit, reuses):
    cost = SampleCost(2e-3, 2e-3, 0.0, 1e-4, 4e5, 1.0)
    cut = CutCost("decode", 1e5, RemainingCpuShare(0.4, 0.3), 0.0, 1e-4, left_deferred=RemainingCpuShare(0.2, 0.1))
    deferral = DeferralCost(("normalize",), RemainingCpuShare(0.8, 0.7), 3e-4, 2e-4, 0.0)
    inputs = ModelInputs(
        cost,
        cost,
        FOOTPRINT,
        Limits(cpus=4),
        cuts=(cut,),
        deferrals=(deferral,),
        allocator=AllocatorGain(1.0, 0.0),
        dataset_samples=1e3,
    )
    store = CacheChoice("decode", "memory", 10**9, hit)
    both = demand(inputs, Config(2, 2, cache=store, deferred=("normalize",), allocator_reuse=reuses))
    of_hits, of_others = (0.1, 0.7) if reuses else (0.2, 0.8)
    assert both.cpu_seconds == pytest.approx(2e-3 * (hit * of_hits + (1 - hit) * of_others))


def test_a_config_of_unknown_operators_is_refused():
    cost = SampleCost(1e-3, 1e-3, 0.0, 0.0, 1.0, 1.0)
    with pytest.raises(KeyError):
        demand(ModelInputs(cost, cost, FOOTPRINT, Limits()), Config(2, 2, deferred=("normalize",)))
