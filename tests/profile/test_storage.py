"""Storage that holds reads up is told from a core that threads share."""

import heapq
import threading
import time

from plumb.profile.storage import held_up

WAIT = 0.01


class Served:
    """A source that serves so many at a time, first come, first served."""

    def __init__(self, at_a_time):
        self.free_at = [0.0] * at_a_time
        self.lock = threading.Lock()

    def read(self, index):
        with self.lock:
            done = max(time.perf_counter(), self.free_at[0]) + WAIT
            heapq.heapreplace(self.free_at, done)
        time.sleep(max(0.0, done - time.perf_counter()))


def test_storage_that_serves_a_few_at_a_time_holds_the_others_up():
    seen = held_up(Served(4).read, range(8), WAIT, lambda: 60.0)
    assert seen.is_held_up
    assert seen.outstanding == (1, 4, 16, 64)
    alone, *_, most = seen.median_seconds
    assert most > 5 * alone


def test_waits_that_pass_at_the_same_time_hold_nothing_up():
    seen = held_up(lambda index: time.sleep(WAIT), range(8), WAIT, lambda: 60.0)
    assert not seen.is_held_up
    assert not seen.reason


def test_work_that_threads_do_by_turns_is_not_storage_s_doing():
    seen = held_up(lambda index: sum(range(100_000)), range(8), 0.002, lambda: 60.0)
    assert not seen.is_held_up


def test_a_few_reads_that_something_else_has_slowed_down_are_not_storage_s_doing():
    def read(index):
        others = threading.active_count() - before
        time.sleep(WAIT * (3 if others == 4 else 1))

    before = threading.active_count()
    seen = held_up(read, range(8), WAIT, lambda: 60.0)
    assert seen.median_seconds[1] > 2 * seen.median_seconds[0]
    assert not seen.is_held_up, "more at once are as quick as one"


def test_it_ends_where_reads_fail_or_take_too_long():
    def refuse(index):
        if threading.active_count() > 10:
            raise ConnectionError("too many")
        time.sleep(WAIT)

    seen = held_up(refuse, range(8), WAIT, lambda: 60.0)
    assert seen.outstanding == (1, 4)
    assert seen.reason == "16 reads at once fail: ConnectionError: too many"
    assert held_up(refuse, range(8), WAIT, lambda: 0.1).outstanding == ()
