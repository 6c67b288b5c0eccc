"""What a worker that isn't forked can be sent: told without touching what is asked about."""

from __future__ import annotations

import functools
import operator
import os
import threading

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from plumb.instrument.picklability import pickling_error


class Holding(TensorDataset):
    def __init__(self, **held):
        super().__init__(torch.zeros(4))
        self.__dict__.update(held)


class Pool:
    """As multiprocessing's refuses."""

    def __reduce__(self):
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")


class Angry(Holding):
    def __reduce__(self):
        raise RuntimeError("not in this process")


def test_tensors_stay_where_they_are_and_no_file_is_left_open():
    dataset = TensorDataset(torch.zeros(3), torch.nn.Parameter(torch.ones(3)))
    before = len(os.listdir("/proc/self/fd"))
    assert pickling_error(DataLoader(dataset)) is None
    assert not any(tensor.is_shared() for tensor in dataset.tensors)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("held", "word"),
    [
        (lambda: 0, "lambda"),
        (threading.Lock(), "lock"),
        ((n for n in range(3)), "generator"),
        (Pool(), "pool objects"),
        (os.scandir("."), "Scan"),
    ],
)
def test_what_cannot_be_written_is_named(held, word):
    reason = pickling_error(DataLoader(Holding(held={"deep": [held]})))
    assert reason is not None
    assert reason.startswith("the dataset can't be pickled (")
    assert word in reason


class Keeper:
    def __init__(self, held):
        self.held = held

    def look(self, samples):
        return samples


@pytest.mark.parametrize("collate", [functools.partial(print, end=lambda: 0), Keeper(threading.Lock()).look])
def test_what_a_function_holds_counts_too(collate):
    assert "collate_fn can't be pickled" in pickling_error(DataLoader(Holding(), collate_fn=collate))


def test_functions_that_workers_call_count_too():
    assert "collate_fn can't" in pickling_error(DataLoader(Holding(), collate_fn=lambda samples: samples))
    assert "worker_init_fn can't" in pickling_error(DataLoader(Holding(), worker_init_fn=lambda worker: None))


@pytest.mark.parametrize(
    "held",
    [operator.itemgetter(1), functools.partial(default_collate), torch.multiprocessing.get_context("spawn").Lock()],
)
def test_nothing_is_held_against_what_can_be_sent(held):
    assert pickling_error(DataLoader(Holding(held=held))) is None


def test_what_the_user_s_code_raises_is_not_taken_for_a_no():
    assert pickling_error(DataLoader(Angry())) is None
