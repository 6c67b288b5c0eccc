"""What short runs teach the model of a host."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumb.model.calibration import Calibration, ProbeRun, calibrated, cost_in_worker, uninterrupted
from plumb.plan import SampleCost

COST = SampleCost(2e-3, 1.9e-3, 1e-4, 0.0, 6e5, 0.03)
ONE = ProbeRun(1, samples=1000, seconds=2.2, worker_cpu_seconds=2.0, main_cpu_seconds=0.1)


@given(st.floats(1, 64), st.floats(0.5, 64), st.floats(-0.3, 3), st.floats(0, 1))
def test_one_process_alone_is_not_slowed_down_and_the_crowd_has_a_limit(processes, cores, crowding, oversubscription):
    calibration = Calibration(crowding, oversubscription)
    assert calibration.slow_down(1.0, max(cores, 1.0)) == pytest.approx(1.0)
    slowest = max(1.0, 1.0 + crowding) * (1.0 + oversubscription)
    assert 0.7 * (1 - 1e-9) <= calibration.slow_down(processes, cores) <= slowest * (1 + 1e-9)


def test_a_worker_s_cost_is_what_the_run_showed():
    cost = cost_in_worker(COST, ONE)
    assert cost.cpu_seconds == pytest.approx(2e-3)
    assert cost.wait_seconds == pytest.approx(0.2e-3)
    assert cost.main_seconds == pytest.approx(0.1e-3)


def test_time_that_a_busy_main_process_held_a_worker_up_is_no_wait():
    starved = ProbeRun(1, samples=1000, seconds=1.0, worker_cpu_seconds=0.1, main_cpu_seconds=0.95)
    assert cost_in_worker(COST, starved).wait_seconds == COST.wait_seconds


def test_a_worker_waits_for_what_the_main_process_waits_for_and_for_nothing_else():
    interrupted = ProbeRun(1, samples=1000, seconds=9.0, worker_cpu_seconds=2.0, main_cpu_seconds=0.1)
    cost = cost_in_worker(COST, interrupted)
    assert cost.wait_seconds == pytest.approx(COST.wait_seconds + 0.1e-3), "and until a batch is taken over"
    assert cost.wall_seconds == pytest.approx(2e-3 + cost.wait_seconds)


def test_the_main_process_waits_no_longer_than_a_worker_is_idle():
    interrupted = SampleCost(9e-3, 1.9e-3, 7.1e-3, 0.0, 6e5, 0.03)
    cost = uninterrupted(interrupted, ONE)
    assert (cost.wall_seconds, cost.wait_seconds) == pytest.approx((2.1e-3, 0.2e-3))
    assert uninterrupted(COST, ONE).wait_seconds == COST.wait_seconds
    starved = ProbeRun(1, samples=1000, seconds=1.0, worker_cpu_seconds=0.1, main_cpu_seconds=0.95)
    assert uninterrupted(interrupted, starved).wait_seconds == interrupted.wait_seconds


def test_two_runs_tell_how_workers_hold_each_other_up():
    two = ProbeRun(2, samples=2000, seconds=2.4, worker_cpu_seconds=4.8, main_cpu_seconds=0.2)
    calibration = calibrated(ONE, two, 2, 64.0, 4e7, 1e-11)
    assert calibration.crowding == pytest.approx(0.2)
    assert calibration.slow_down(2, 2) == pytest.approx(1.2)
    assert calibrated(ONE, two, 4, 64.0, 4e7, 0.0).crowding == pytest.approx(0.6), "extended to all cores"
    assert calibrated(ONE, None, 2, 64.0, 4e7, 0.0).crowding == 0.0


@given(st.floats(0, 1e-8), st.floats(0, 1e9))
def test_the_parts_of_the_hand_over_add_up_to_what_was_measured(per_byte, batch_bytes):
    calibration = calibrated(ONE, None, 2, 64.0, batch_bytes, per_byte)
    whole = calibration.hand_over_seconds_per_batch + calibration.hand_over_seconds_per_byte * batch_bytes
    assert whole == pytest.approx(64 * 1e-4)
    assert calibration.hand_over_seconds_per_batch >= 0
