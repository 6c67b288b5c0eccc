"""A limit on computing holds whoever else has the CPU, and waiting ends it in the end."""

import time

from plumb.core.time_box import TimeBox


def test_computing_ends_it_and_waiting_does_not_at_once():
    box = TimeBox(0.02)
    time.sleep(0.03)
    assert not box.is_over
    until = time.thread_time() + 0.021
    while time.thread_time() < until:
        pass
    assert box.is_over


def test_waiting_ends_it_in_the_end():
    box = TimeBox(0.001)
    time.sleep(0.02)
    assert box.is_over
