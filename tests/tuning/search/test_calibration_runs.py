"""What the two short runs that calibrate the model make of a situation."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumb.core.config import Config
from plumb.core.plan import SampleCost
from plumb.host import Limits
from plumb.model.calibration import ProbeRun
from plumb.model.constraints import needs
from plumb.model.cpu_contention import CpuCompetition
from plumb.model.demand import demand
from plumb.model.inputs import AllocatorGain, Footprint, ModelInputs
from plumb.model.resource_bounds import capacities
from plumb.tuning.search.calibration_runs import (
    CalibrationRun,
    calibrate_with_many_workers,
    calibrate_with_one_worker,
    with_malloc_reuse,
)

CORES, BATCH = 4, 32
FRESH, REUSING = Config(CORES, 2), Config(CORES, 2, allocator_reuse=True)
ALONE = SampleCost(1e-3, 1e-3, 0.0, 0.0, 1e6, 1 / BATCH)


def probed(workers: int, cpu_seconds: float) -> CalibrationRun:
    """A run whose samples take so much CPU of a worker each, and no other time."""
    run = ProbeRun(workers, 1000, cpu_seconds * 1000 / workers, cpu_seconds * 1000, 0.01)
    return CalibrationRun(run, 5e6, 1e3, 0.0, 0.2, 0.05)


def unprobed() -> ModelInputs:
    """What is known before the first run: reused memory halves what a sample takes."""
    footprint = Footprint(1e6 * BATCH, 1, 0.0, 1e8, 10)
    gain = AllocatorGain(0.5, 0.0, 5e-4)
    return ModelInputs(ALONE, ALONE, footprint, Limits(CORES), samples_per_batch=float(BATCH), allocator=gain)


def test_one_worker_tells_what_samples_cost_there_and_what_it_takes_of_the_host():
    told = calibrate_with_one_worker(unprobed(), probed(1, 2e-3), 1e-11)
    assert demand(told, FRESH).cpu_seconds == pytest.approx(2e-3)
    assert told.cost == ALONE
    assert (told.footprint.worker_private_bytes, told.footprint.worker_growth_bytes) == (5e6, 1e3)
    assert (told.start_seconds_in_main, told.start_seconds_in_worker) == pytest.approx((0.05, 0.15))
    assert told.calibration.crowding == 0.0


@given(st.sampled_from([FRESH, REUSING]), st.floats(0.8, 3.0))
def test_as_many_workers_as_cores_are_predicted_to_do_what_they_were_seen_to(config, slower):
    one = probed(1, 2e-3)
    told = calibrate_with_one_worker(unprobed(), one, 1e-11)
    many = probed(CORES, slower * demand(told, config).cpu_seconds)
    told = calibrate_with_many_workers(told, one, config, many, CORES)
    limits = capacities(told, replace(demand(told, config), main_seconds=0.0), CORES, 0.0)
    assert limits["cpu"] == pytest.approx(CORES / many.run.cpu_seconds_in_worker)


def test_where_runs_stood_in_line_others_want_more_than_they_had_and_share_as_was_seen():
    # One worker had half a CPU, and would have had all of it.
    run = ProbeRun(1, 1000, 0.9, 0.9, 0.0, queued_seconds=0.9)
    one = replace(probed(1, 9e-4), run=run)
    told = calibrate_with_one_worker(unprobed(), one, 1e-11, CpuCompetition(CORES, 2.0))
    assert told.competition == CpuCompetition(CORES, pytest.approx(4.0))
    # Four workers got three CPUs, though the same share for everybody is two: each stood in line for a quarter.
    run = ProbeRun(CORES, 4000, 1.0, 4.0, 0.0, queued_seconds=1 / 3)
    many = replace(probed(CORES, 1e-3), run=run)
    assert (run.used_cpus, run.wanted_cpus) == pytest.approx((3.0, 4.0))
    told = calibrate_with_many_workers(told, one, FRESH, many, CORES)
    assert told.competition.by_processes == 1.0, "no more than the same share is believed"
    slower = replace(many, run=replace(run, worker_cpu_seconds=4 / 3))
    assert calibrate_with_many_workers(told, one, FRESH, slower, CORES).competition.by_processes == pytest.approx(0.75)


def test_a_run_that_stood_in_line_for_a_moment_says_nothing_of_the_others():
    run = ProbeRun(1, 1000, 0.9, 0.9, 0.0, queued_seconds=0.2)
    told = calibrate_with_one_worker(unprobed(), replace(probed(1, 9e-4), run=run), 1e-11, CpuCompetition(CORES, 2.0))
    assert told.competition == CpuCompetition(CORES, 2.0)


def test_in_fresh_memory_workers_crowd_less_than_was_seen_in_memory_used_again():
    one = probed(1, 2e-3)
    told = calibrate_with_one_worker(unprobed(), one, 1e-11)
    alone = demand(told, REUSING).cpu_seconds
    told = calibrate_with_many_workers(told, one, REUSING, probed(CORES, 2 * alone), CORES)
    assert told.calibration.crowding == pytest.approx(1.0)
    fresh = demand(told, FRESH).cpu_seconds
    assert fresh > alone
    slow_down = told.calibration.of(fresh).slow_down(CORES, CORES)
    assert slow_down == pytest.approx(1.0 + (alone / fresh) ** 2)


@given(st.floats(0.7, 0.99))
def test_a_look_that_said_too_much_of_reused_memory_changes_nothing_of_fresh_memory(faster):
    one = probed(1, 2e-3)
    before = calibrate_with_one_worker(unprobed(), one, 1e-11)
    many = probed(CORES, faster * demand(before, REUSING).cpu_seconds)
    told = calibrate_with_many_workers(before, one, REUSING, many, CORES)
    assert demand(told, REUSING).cpu_seconds == pytest.approx(many.run.cpu_seconds_in_worker)
    assert demand(told, FRESH) == demand(before, FRESH)
    assert told.calibration.crowding == pytest.approx(0.0)


def test_the_second_run_is_in_fresh_memory_where_the_buffers_of_reused_memory_do_not_fit():
    inputs = unprobed()
    assert with_malloc_reuse(inputs, FRESH) == REUSING
    fresh, reusing = (needs(inputs, config, CORES, config.batches_in_flight) for config in (FRESH, REUSING))
    assert fresh["shared memory"] < reusing["shared memory"]
    tight = replace(inputs, limits=Limits(CORES, shm_bytes=(fresh["shared memory"] + reusing["shared memory"]) / 2))
    assert with_malloc_reuse(tight, FRESH) == FRESH
    assert with_malloc_reuse(replace(inputs, allocator=None), FRESH) == FRESH
