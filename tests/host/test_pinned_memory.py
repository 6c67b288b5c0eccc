"""Batches of a loader with `pin_memory=True`, on hosts with and without an accelerator."""

import threading

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from plumb.host import pinned_memory
from plumb.script.follower_rank import FollowerRankWork
from plumb.tuning.measure.replayed_batches import replayed
from plumb.tuning.measure.training_loop import LoopMeter


@pytest.fixture
def no_accelerator(monkeypatch):
    """A host on which page-locked memory can't be had, whatever this one has."""

    def refuse(*_):
        raise RuntimeError("Cannot access accelerator device when none is available.")

    monkeypatch.setattr(torch.Tensor, "pin_memory", refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if hasattr(torch, "accelerator"):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda *_: False)


def test_without_an_accelerator_batches_stay_as_they_are(no_accelerator):
    batch = {"x": [torch.ones(3)], "name": "a"}
    assert pinned_memory.pinned(batch) is batch
    assert not pinned_memory.is_pinnable(batch)


def test_with_an_accelerator_every_tensor_is_pinned(monkeypatch):
    monkeypatch.setattr(pinned_memory, "can_pin", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    assert pinned_memory.pinned({"x": [torch.zeros(2)], "name": "a"})["x"][0].tolist() == [1, 1]
    assert pinned_memory.is_pinnable([torch.zeros(2)])


def test_a_batch_that_can_t_be_pinned_is_told_before_it_is_used(monkeypatch):
    def refuse(*_):
        raise RuntimeError("cannot pin 'torch.sparse' only dense CPU tensors can be pinned")

    monkeypatch.setattr(pinned_memory, "can_pin", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", refuse)
    assert not pinned_memory.is_pinnable([torch.zeros(2)])


def test_a_loop_gets_ready_batches_of_a_loader_that_would_pin(no_accelerator):
    batches = replayed([torch.zeros(2), torch.ones(2)], pin=True)
    assert [next(batches).tolist() for _ in range(3)] == [[0, 0], [1, 1], [0, 0]]


def test_a_rank_that_takes_part_gets_batches_of_a_loader_that_would_pin(no_accelerator):
    loader = DataLoader(TensorDataset(torch.arange(4.0)), batch_size=2, pin_memory=True)
    course = FollowerRankWork().run_in_loop(None, loader, LoopMeter(2.0, 10.0), iter([[torch.zeros(2)]]), 0.0)
    assert next(course)[0].tolist() == [0, 0]
    course.close()


def test_ready_batches_may_hold_what_can_t_be_copied():
    hidden = nn.Linear(2, 2)(torch.ones(2))
    lock = threading.Lock()
    batches = replayed([(hidden, lock)], pin=False)
    for _ in range(2):
        copied, its_lock = next(batches)
        assert torch.equal(copied, hidden)
        assert its_lock is lock
