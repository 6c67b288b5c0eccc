"""Reads made at once by real threads, from sources that hold some of them up, fail, or never end."""

import heapq
import socket
import threading
import time
from contextlib import closing
from itertools import count, cycle

import pytest

from plumb.model.concurrency_climb import ClimbEnd
from plumb.rewrites import reads_at_once as reads
from plumb.rewrites.reads_at_once import climb_reads, reads_at_once

# Far longer than a busy host takes to wake a thread up.
WAIT = 0.03


class Served:
    """A source that serves so many at a time, first come, first served, and counts how many are there at once."""

    def __init__(self, at_a_time, seconds=WAIT):
        self.free_at = [0.0] * at_a_time
        self.seconds, self.lock = seconds, threading.Lock()
        self.now = self.most = 0

    def read(self, index):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            done = max(time.perf_counter(), self.free_at[0]) + self.seconds
            heapq.heapreplace(self.free_at, done)
        time.sleep(max(0.0, done - time.perf_counter()))
        with self.lock:
            self.now -= 1


@pytest.mark.quiet
def test_a_source_that_serves_a_few_at_a_time_is_not_asked_for_many_more():
    source = Served(4)
    capacity = climb_reads(source.read, range(8), WAIT, 64, 20.0)
    # Whether the source gives no more, or this process gets no more of it, only other processes can show.
    assert capacity.end is ClimbEnd.PROCESS
    assert not capacity.is_exhausted
    assert capacity.good_reads == 4
    assert source.most <= 8


def test_a_lock_of_the_dataset_s_own_says_nothing_of_its_source():
    lock = threading.Lock()

    def read(index):
        with lock:
            time.sleep(WAIT)

    capacity = climb_reads(read, range(8), WAIT, 64, 20.0)
    # A host that others keep busy may make two reads look better than one, or the CPU the cause.
    assert not capacity.is_exhausted
    assert capacity.good_reads <= 2


def test_no_more_are_made_at_once_than_are_allowed():
    source = Served(64)
    assert climb_reads(source.read, range(8), WAIT, 6, 20.0).most_reads <= 6
    assert source.most <= 6


def test_what_a_read_raises_ends_the_climb_and_is_told():
    def refuse(index):
        if source.now > 3:
            raise ConnectionError("too many")
        source.read(index)

    source = Served(64)
    capacity = climb_reads(refuse, range(8), WAIT, 64, 20.0)
    assert (capacity.end, capacity.good_reads) == (ClimbEnd.FAILED, 4)
    assert capacity.reason == "8 reads at once fail: ConnectionError: too many"


def test_reads_that_never_end_are_given_up(monkeypatch):
    def hang(index):
        if next(number) == 5:
            never.wait()

    number, never = count(), threading.Event()
    seen = reads_at_once(hang, cycle([0]), 2, 0.1, 0.2)
    never.set()
    assert seen.failures == 1
    assert "did not end" in seen.reason


def test_there_may_be_no_time_for_a_first_look():
    assert climb_reads(lambda index: None, [0], 1.0, 64, 0.5) is None


def test_a_read_that_comes_long_after_the_others_is_no_part_of_a_rate():
    def read(index):
        time.sleep(20 * WAIT if next(number) == 9 else WAIT)

    number = count()
    seen = reads_at_once(read, cycle([0]), 4, 6 * WAIT, 5.0)
    assert seen.samples_per_second > 2 / WAIT


def test_a_lock_that_its_last_holder_gets_back_is_not_taken_for_a_quick_source():
    def read(index):
        with lock:
            time.sleep(WAIT / 10)

    lock = threading.Lock()
    for count_of_threads in (2, 16):
        seen = reads_at_once(read, cycle([0]), count_of_threads, 6 * WAIT, 5.0)
        assert seen.samples_per_second < 1.1 * 10 / WAIT


def test_connections_that_nobody_accepts_are_seen_to_be_tried_again():
    if not reads._COUNTERS.exists():
        pytest.skip("this system does not count them")
    before = reads.tried_again()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        held = []
        for _ in range(3):
            held.append(socket.socket())
            held[-1].setblocking(False)
            held[-1].connect_ex(full.getsockname())
        deadline = time.monotonic() + 10.0
        while reads.tried_again() == before and time.monotonic() < deadline:
            time.sleep(0.1)
        for each in held:
            closing(each).__exit__(None, None, None)
    assert reads.tried_again() > before
