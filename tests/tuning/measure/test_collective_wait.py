"""What steps wait for other ranks, on a process group of one that is slow to answer."""

import time

import pytest
import torch
import torch.distributed as dist

from plumb.tuning.measure.collective_wait import CollectiveWait, collective_waits


def test_only_standing_still_counts_and_only_once():
    found = CollectiveWait()
    inner = found.watched(lambda: time.sleep(0.05))

    def work():
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        inner()
        time.sleep(0.05)

    found.watched(work)()
    assert 0.09 < found.seconds < 0.14


def test_what_is_raised_inside_goes_on_and_counting_too():
    found = CollectiveWait()

    def fail():
        raise ConnectionError("a rank is gone")

    with pytest.raises(ConnectionError, match="a rank is gone"):
        found.watched(fail)()
    found.watched(time.sleep)(0.02)
    assert found.seconds > 0.01


def test_torch_s_own_are_put_back_and_left_alone_on_one_rank():
    before = dist.Work.wait, torch.autograd.backward
    with collective_waits(1):
        assert (dist.Work.wait, torch.autograd.backward) == before
    with collective_waits(2):
        assert torch.autograd.backward is not before[1]
    assert (dist.Work.wait, torch.autograd.backward) == before
