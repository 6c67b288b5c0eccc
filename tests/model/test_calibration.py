"""What short runs teach the model of a host."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumb.core.plan import SampleCost
from plumb.model.calibration import (
    Calibration,
    ProbeRun,
    calibrated,
    cost_in_worker,
    crowded,
    with_waiting,
    without_queueing,
)

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


@pytest.mark.parametrize("which", range(3))
def test_one_reading_in_three_may_be_of_a_host_that_was_busy_otherwise(which):
    waits = [0.1e-3] * 3
    waits[which] = 9e-3
    cost = SampleCost(2e-3 + waits[0], 2e-3, waits[0], 0.0, 6e5, 0.03)
    one, two = (
        ProbeRun(count, 1000, (2e-3 + wait) * 1000 / count, 2.0, 0.05)
        for count, wait in zip((1, 2), waits[1:], strict=True)
    )
    assert with_waiting(cost, one, two, 0.1).wait_seconds == pytest.approx(0.1e-3)
    assert cost_in_worker(cost, one, two, 0.1).wait_seconds == pytest.approx(0.1e-3)


def test_what_rarely_waits_long_is_seen_by_longer_readings():
    never_met = SampleCost(2e-3, 2e-3, 0.0, 0.0, 6e5, 0.03)
    one, two = ProbeRun(1, 1000, 5.0, 2.0, 0.1), ProbeRun(2, 1000, 2.5, 2.0, 0.1)
    assert with_waiting(never_met, one, two, 0.1).wait_seconds == pytest.approx(3e-3)


@given(st.floats(5e-3, 1), st.floats(5e-3, 1), st.floats(5e-3, 1))
def test_of_a_source_with_rare_slow_samples_every_reading_counts_as_much_as_it_has_seen(alone, of_one, of_two):
    cost = SampleCost(1e-3 + alone, 1e-3, alone, 0.0, 6e5, 0.03)
    one = ProbeRun(1, 100, 100 * (1e-3 + of_one), 100 * 1e-3, 0.01)
    two = ProbeRun(2, 200, 100 * (1e-3 + of_two), 200 * 1e-3, 0.01)
    assert with_waiting(cost, one, two, 0.6).wait_seconds == pytest.approx((alone + of_one + 2 * of_two) / 4)


@given(st.integers(1, 64), st.floats(0.1, 10), st.floats(0, 0.99))
def test_standing_in_line_for_a_core_is_no_waiting(workers, seconds, in_line):
    assert without_queueing(seconds, workers, in_line * seconds * workers) == pytest.approx((1 - in_line) * seconds)


def test_a_worker_may_hand_one_batch_over_while_it_makes_the_next():
    run = ProbeRun(1, samples=1000, seconds=1.0, worker_cpu_seconds=1.25, main_cpu_seconds=0.1)
    assert run.overlap == pytest.approx(1.25)
    assert run.idle_seconds_in_worker == 0.0
    assert cost_in_worker(COST, run).cpu_seconds == pytest.approx(1.25e-3)
    assert ONE.overlap == 1.0


def test_runs_that_the_main_process_held_up_tell_nothing_of_waiting():
    starved = ProbeRun(2, samples=1000, seconds=1.0, worker_cpu_seconds=0.1, main_cpu_seconds=0.95)
    assert with_waiting(COST, ONE, starved, 0.6) == COST
    assert cost_in_worker(COST, ONE, starved, 0.6).wait_seconds == cost_in_worker(COST, ONE).wait_seconds


def test_two_runs_tell_how_workers_hold_each_other_up():
    two = ProbeRun(2, samples=2000, seconds=2.4, worker_cpu_seconds=4.8, main_cpu_seconds=0.2)
    hand_over = calibrated(ONE, 64.0, 4e7, 1e-11)
    calibration = crowded(hand_over, two, ONE.cpu_seconds_in_worker, 2)
    assert calibration.crowding == pytest.approx(0.2)
    assert calibration.slow_down(2, 2) == pytest.approx(1.2)
    assert crowded(hand_over, two, ONE.cpu_seconds_in_worker, 4).crowding == pytest.approx(0.6), "extended to all cores"
    assert hand_over.crowding == 0.0
    assert crowded(hand_over, ONE, ONE.cpu_seconds_in_worker, 2) == hand_over, "one worker alone has no crowd"


@given(st.floats(0, 3), st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_samples_that_take_longer_for_the_same_data_crowd_less(crowding, seen, cpu_seconds):
    calibration = Calibration(crowding, crowded_cpu_seconds=seen)
    its = calibration.of(cpu_seconds)
    assert 0.0 <= its.crowding <= crowding
    if cpu_seconds > seen:
        assert its.crowding == pytest.approx(crowding * (seen / cpu_seconds) ** 2)
    else:
        assert its == calibration
    assert Calibration(crowding).of(cpu_seconds).crowding == crowding


@given(st.floats(0, 1e-8), st.floats(0, 1e9))
def test_the_parts_of_the_hand_over_add_up_to_what_was_measured(per_byte, batch_bytes):
    calibration = calibrated(ONE, 64.0, batch_bytes, per_byte)
    whole = calibration.hand_over_seconds_per_batch + calibration.hand_over_seconds_per_byte * batch_bytes
    assert whole == pytest.approx(64 * 1e-4)
    assert calibration.hand_over_seconds_per_batch >= 0
