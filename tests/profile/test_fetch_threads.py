"""What fetch threads gain is seen on batches: of waits nearly all, of work that holds the lock nothing."""

import threading
import time

from plumb.profile.fetch_threads import timed_threads

WAIT = 0.01


def test_threads_share_waits():
    gains, reason = timed_threads(lambda index: time.sleep(WAIT), range(8), 32, WAIT, 1e-4, budget_seconds=6.0)
    assert not reason
    assert [gain.threads for gain in gains] == [4, 16]
    assert all(1 / gain.threads <= gain.time_factor < 2.5 / gain.threads for gain in gains)


def test_work_under_a_lock_is_not_shared():
    lock = threading.Lock()

    def read(index):
        with lock:
            time.sleep(WAIT / 10)

    gains, _ = timed_threads(read, range(8), 16, WAIT / 10, 1e-4, budget_seconds=6.0)
    assert all(gain.time_factor > 0.8 for gain in gains)


def test_a_batch_waits_for_its_slowest_sample():
    def read(index):
        time.sleep(0.1 if index == 0 else 0.001)

    gains, _ = timed_threads(read, range(16), 16, 0.115 / 16, 1e-4, budget_seconds=20.0)
    assert all(gain.time_factor > 0.7 for gain in gains)


def test_what_takes_too_long_or_fails_is_left_out():
    assert timed_threads(lambda index: time.sleep(WAIT), range(8), 64, WAIT, 1e-4, 0.01) == ([], "")

    def refuse(index):
        time.sleep(WAIT)
        if threading.active_count() > 10:
            raise ConnectionError("too many")

    gains, reason = timed_threads(refuse, range(64), 64, WAIT, 1e-4, 6.0)
    assert [gain.threads for gain in gains] == [4]
    assert "too many" in reason
