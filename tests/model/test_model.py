"""The bounds and the planner: properties that hold for every pipeline and every host."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumb.host import Limits
from plumb.model import operational, planner
from plumb.model.planner import Footprint, Freedom, Situation
from plumb.plan import Config, SampleCost

seconds = st.floats(1e-6, 1.0)
costs = st.builds(
    SampleCost,
    wall_seconds=seconds,
    cpu_seconds=seconds,
    wait_seconds=st.floats(0, 1.0),
    main_seconds=st.floats(0, 0.01),
    output_bytes=st.floats(0, 1e7),
    output_tensors=st.floats(0, 4),
)
configs = st.integers(0, 64).flatmap(
    lambda workers: st.builds(
        Config,
        num_workers=st.just(workers),
        prefetch_factor=st.sampled_from((2, 4, 8)) if workers else st.none(),
        persistent_workers=st.booleans() if workers else st.just(False),
    )
)
steps = st.none() | st.floats(1, 1e6)
limits = st.builds(
    Limits,
    cpus=st.floats(0.1, 128),
    memory_bytes=st.floats(1e6, 1e12),
    shm_bytes=st.floats(0, 1e11),
    open_files=st.integers(0, 100_000).map(float),
    processes=st.integers(0, 1000).map(float),
    max_workers=st.just(math.inf) | st.integers(0, 64).map(float),
)
footprints = st.builds(
    Footprint,
    batch_bytes=st.floats(1, 1e9),
    tensors_per_batch=st.integers(1, 100),
    worker_private_bytes=st.floats(0, 1e9),
    main_bytes=st.floats(1e6, 1e10),
    open_files=st.integers(3, 500),
)
situations = st.builds(
    Situation,
    cost=costs,
    cost_in_worker=costs,
    footprint=footprints,
    limits=limits,
    step_samples_per_second=steps,
    step_cpu_seconds=st.floats(0, 0.1),
    epoch_samples=st.none() | st.floats(1, 1e7),
    start_seconds_per_worker=st.floats(0, 5),
)
freedoms = st.builds(Freedom, num_workers=st.integers(0, 20).map(lambda most: tuple(range(most + 1))))


@given(configs, costs, st.floats(0.1, 128), steps, st.floats(0, 0.1))
def test_the_smallest_bound_is_the_prediction_and_fully_used(config, cost, cores, step, step_cpu):
    predicted = operational.predict(config, cost, cores, step, step_cpu)
    assert predicted.samples_per_second == min(predicted.bounds.values())
    assert predicted.utilization[predicted.bottleneck] == pytest.approx(1.0)
    assert all(0 <= share <= 1 + 1e-9 for share in predicted.utilization.values())


@given(st.integers(1, 63), costs, st.floats(0.1, 128), steps)
def test_more_workers_never_lower_a_bound(workers, cost, cores, step):
    fewer = operational.bounds(Config(workers, 2), cost, cores, step)
    more = operational.bounds(Config(workers + 1, 2), cost, cores, step)
    assert all(more[resource] >= fewer[resource] for resource in fewer)


@given(costs, st.floats(0.1, 64))
def test_cpu_seconds_are_never_overdrawn(cost, cores):
    bound = operational.bounds(Config(64, 2), cost, cores, None)["cpu"]
    assert bound * (cost.cpu_seconds + cost.main_seconds) == pytest.approx(cores)


def test_the_bounds_of_the_design_s_first_check():
    # 2.17 ms of worker CPU and 0.2 ms in the main process, two cores: 843 samples per second were measured.
    cost = SampleCost(2.17e-3, 2.17e-3, 0.0, 0.2e-3, 0.0, 0.0)
    predicted = operational.predict(Config(2, 2), cost, 2.0, None)
    assert predicted.bottleneck == "cpu"
    assert predicted.samples_per_second == pytest.approx(2 / 2.37e-3)


@given(configs, st.floats(1, 1e6), st.floats(1, 1e6))
def test_a_loop_is_no_faster_than_its_loader_or_its_step(config, loader, step):
    loop = operational.end_to_end(config, loader, step)
    assert loop <= min(loader, step)
    if config.num_workers:
        assert loop == min(loader, step)
    else:
        assert 1 / loop == pytest.approx(1 / loader + 1 / step)


@given(situations, freedoms)
def test_no_configuration_over_any_limit_is_ever_proposed(situation, freedom):
    allowed, foot = situation.limits, situation.footprint
    for config in planner.rank(planner.configurations(freedom), situation):
        in_flight = (config.batches_in_flight + config.num_workers) * foot.batch_bytes if config.num_workers else 0.0
        assert config.num_workers <= allowed.max_workers
        assert config.num_workers <= allowed.processes
        assert in_flight <= allowed.shm_bytes
        assert foot.main_bytes + config.num_workers * foot.worker_private_bytes + in_flight <= allowed.memory_bytes


@given(situations, freedoms)
def test_what_is_left_out_names_the_limit_it_breaks(situation, freedom):
    every = set(planner.configurations(freedom))
    ranked = planner.rank(every, situation)
    assert len(ranked) == len(set(ranked))
    for config in every - set(ranked):
        assert "are allowed" in planner.broken_limit(config, situation.footprint, situation.limits)


@given(situations, freedoms)
def test_the_first_is_the_best_predicted_and_the_cheapest_of_its_equals(situation, freedom):
    ranked = planner.rank(planner.configurations(freedom), situation)
    if not ranked:
        return

    def loop(config):
        return situation.loop_rate(config, situation.loader_rate(config))

    best = max(map(loop, ranked))
    assert loop(ranked[0]) >= best * 0.98
    same = [config for config in ranked if loop(config) == loop(ranked[0])]
    assert ranked[0] == min(same, key=planner.cost_order)


@given(costs, st.floats(0.1, 128), steps)
def test_worker_counts_begin_with_none_and_have_no_gaps(cost, cpus, step):
    counts = planner.worker_counts(cost, Limits(cpus=cpus), step)
    assert counts == tuple(range(len(counts)))


def test_waiting_samples_may_have_more_workers_than_cores():
    waits = SampleCost(4e-3, 1e-4, 3.9e-3, 0.0, 0.0, 0.0)
    computes = dataclasses.replace(waits, cpu_seconds=3.9e-3, wait_seconds=1e-4)
    two_cores = Limits(cpus=2)
    assert max(planner.worker_counts(waits, two_cores, None)) == 64
    assert max(planner.worker_counts(waits, two_cores, step=2000.0)) == 8
    assert max(planner.worker_counts(computes, two_cores, None)) == 4
    assert max(planner.worker_counts(waits, Limits(cpus=2, max_workers=3), None)) == 3
