"""What fetch threads gain is seen on batches: of waits nearly all, of work that holds the lock nothing."""

import math
import random
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumb.model.concurrency_climb import ClimbEnd, SourceCapacity
from plumb.rewrites.thread_timing import ThreadsGain, ThreadsTimed, gains_of_climb, interpolated_gains, time_threads

WAIT = 0.01


def test_threads_share_waits():
    timed = time_threads(lambda index: time.sleep(WAIT), range(8), 32, WAIT, 0.0, budget_seconds=8.0)
    assert not timed.reason
    assert timed.alone_cpu_seconds < WAIT / 10
    assert [gain.threads for gain in timed.gains] == [4, 16]
    assert all(1 / gain.threads <= gain.time_factor < 2.5 / gain.threads for gain in timed.gains)


def test_work_under_a_lock_is_not_shared():
    lock = threading.Lock()

    def read(index):
        with lock:
            time.sleep(WAIT / 10)

    timed = time_threads(read, range(8), 16, WAIT / 10, 0.0, budget_seconds=8.0)
    assert timed.gains
    assert all(gain.time_factor > 0.8 for gain in timed.gains)


@pytest.mark.slow
def test_who_stands_in_line_is_not_a_slow_sample():
    """A lock that its last holder gets back as long as it comes back at once: the others wait for very long."""
    held = WAIT / 10
    guard, last_holder, free_at = threading.Lock(), 0, 0.0

    def read(index):
        nonlocal last_holder, free_at
        while True:
            with guard:
                now, mine = time.perf_counter(), last_holder == threading.get_ident()
                if (mine and now > free_at) or now > free_at + 5 * held:
                    last_holder, free_at = threading.get_ident(), now + held
                    break
            time.sleep(held)
        time.sleep(held)

    timed = time_threads(read, range(8), 64, held, 0.0, budget_seconds=4.0)
    assert timed.gains
    assert all(gain.time_factor > 0.8 for gain in timed.gains)


def test_what_is_believed_of_one_thread_does_not_matter():
    """Such as what is left of a sample's time where most of a batch's is that of its own collate."""
    timed = time_threads(lambda index: time.sleep(WAIT), range(8), 16, 0.0, 0.0, budget_seconds=8.0)
    assert all(0 < gain.time_factor < 1 for gain in timed.gains)
    assert all(1 <= gain.cpu_factor < 100 for gain in timed.gains)


def test_to_hand_a_tiny_sample_to_a_thread_takes_longer_than_to_make_it():
    timed = time_threads(lambda index: index, range(64), 64, 1e-6, 1e-6, budget_seconds=2.0)
    assert timed.gains
    assert all(gain.time_factor > 1 for gain in timed.gains)


@pytest.mark.slow
def test_a_batch_waits_for_its_slowest_sample():
    def read(index):
        time.sleep(0.1 if index == 0 else 0.001)

    timed = time_threads(read, range(16), 16, 0.115 / 16, 0.0, budget_seconds=20.0)
    assert timed.gains
    assert all(gain.time_factor > 0.45 for gain in timed.gains)


def test_rare_slow_samples_count_for_every_number_of_threads_whoever_met_them():
    """One in a hundred takes as long as fifty others, and keeps one thread of several."""
    slow = {index for index in range(1000) if index % 100 == 37}

    def read(index):
        time.sleep(0.1 if index in slow else 0.002)

    indices = random.Random(0).sample(range(1000), 1000)
    timed = time_threads(read, indices, 32, 0.003, 0.0, budget_seconds=4.0)
    few, many = timed.gains
    assert 0.25 < few.time_factor < 0.65
    assert 0.2 < many.time_factor < 0.5
    assert few.crowded_time_factor == pytest.approx(few.time_factor, rel=0.5)


def test_what_takes_too_long_or_fails_is_left_out():
    assert time_threads(lambda index: time.sleep(WAIT), range(8), 64, WAIT, 0.0, 0.01) == ThreadsTimed(0.0)

    def refuse(index):
        time.sleep(WAIT)
        if threading.active_count() > 10:
            raise ConnectionError("too many")

    timed = time_threads(refuse, range(64), 64, WAIT, 0.0, 8.0)
    assert [gain.threads for gain in timed.gains] == [4]
    assert "16 at once fail: ConnectionError: too many" in timed.reason


def test_what_threads_need_at_the_same_time_is_theirs():
    def read(index):
        block = bytearray(8 * 2**20)
        time.sleep(WAIT)
        return len(block)

    timed = time_threads(read, range(8), 16, WAIT, 0.0, budget_seconds=8.0)
    assert [gain.threads for gain in timed.gains] == [4, 16]
    assert all(6 * 2**20 < gain.thread_bytes < 40 * 2**20 for gain in timed.gains)


def test_where_there_is_no_time_to_time_batches_the_climb_tells_what_threads_gain():
    source = SourceCapacity((1, 2, 4, 8, 64), (100.0, 200.0, 380.0, 700.0, 900.0), 8, 64, ClimbEnd.FLAT)
    gains = gains_of_climb(source, 32, 1e3)
    assert [gain.threads for gain in gains] == [2, 4, 8]
    assert [gain.time_factor for gain in gains] == pytest.approx([1 / 2, 1 / 3.8, 1 / 7])
    # No batch of 32 takes fewer rounds of eight than four.
    quick = SourceCapacity((1, 8), (1.0, 100.0), 8, 8, ClimbEnd.FLAT)
    assert gains_of_climb(quick, 32, 1e3)[0].time_factor == 4 / 32


@given(st.integers(2, 300), st.lists(st.floats(0.05, 1.5), min_size=1, max_size=4))
def test_between_two_counts_of_threads_what_they_take_lies_between(batch, factors):
    counts = [4, 16, 64, 256][: len(factors)]
    measured = [ThreadsGain(count, one, one, 1.0, 1e5) for count, one in zip(counts, factors, strict=True)]
    found = {gain.threads: gain for gain in interpolated_gains(measured, batch)}
    assert all(found[gain.threads] == gain for gain in measured)
    assert max(found) == counts[-1]
    for threads, gain in found.items():
        lower = max([count for count in counts if count <= threads], default=1)
        upper = min([count for count in counts if count >= threads])
        ends = [found[count].time_factor if count > 1 else 1.0 for count in (lower, upper)]
        rounds = math.ceil(batch / threads) / batch
        assert min(ends) * 0.999 <= gain.time_factor <= max(*ends, rounds) * 1.001
