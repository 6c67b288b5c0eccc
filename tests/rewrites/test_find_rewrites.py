"""What is offered to the search was tried, and saves something."""

import hashlib
import threading
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from plumb.rewrites.find_rewrites import find_rewrites
from plumb.tuning.measure.sample_cost import measure_samples
from plumb.tuning.measure.throughput import IndexStream

# So much longer than a busy host takes to wake a thread up that this is no part of it to speak of.
WAIT = 0.03


def offers_for(dataset, may_use_workers=True, **arguments):
    loader = DataLoader(dataset, batch_size=16, **arguments)
    cost = measure_samples(loader, IndexStream(loader.batch_sampler), 0.2).cost
    return find_rewrites(loader, cost, list(range(64)), 20.0, may_use_workers=may_use_workers)


class Rows(Dataset):
    """Less work than to read the result of it from a store."""

    def __init__(self):
        self.rows = torch.rand(64, 8)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return torch.tanh(torch.neg(self.rows[index]))


class Waiting(Dataset):
    """A source that answers one after another, or all at once."""

    def __init__(self, by_turns):
        self.turn = threading.Lock() if by_turns else None

    def __len__(self):
        return 64

    def __getitem__(self, index):
        if self.turn is None:
            time.sleep(WAIT)
        else:
            with self.turn:
                time.sleep(WAIT)
        return {"x": torch.full((8,), float(index))}


def taking_apart(samples):
    """A collate function that can be asked once for a sample."""
    return torch.stack([sample.pop("x") for sample in samples])


def test_a_store_that_is_read_no_faster_than_its_values_are_made_is_none():
    found = offers_for(Rows())
    assert found.cuts == ()
    assert any("to read a value takes as long as to make it" in reason for reason in found.rewrites.reasons)


class Sorted(Dataset):
    """Each operator makes as much as the one before it, and the last one half of it."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        numbers = torch.arange(20_000.0).roll(index).sort().values
        squares = torch.square(numbers)
        return torch.narrow(torch.sqrt(squares), 0, 0, 10_000).clone()


@pytest.mark.slow
def test_of_stores_that_take_as_much_room_only_the_one_that_saves_most_is_timed():
    found = offers_for(Sorted())
    assert [cut.after for cut in found.cuts] == ["clone"]
    assert [cut.after for cut in found.rewrites.cuts] == ["clone"]


@pytest.mark.slow
def test_threads_that_wait_for_each_other_are_none():
    found = offers_for(Waiting(by_turns=True))
    assert found.threads == ()
    assert found.rewrites.threads_until == ()
    words = "gives no more to two reads at once than to one", "they take as long as one"
    assert any(word in reason for word in words for reason in found.rewrites.reasons)
    assert found.source.most_reads <= 2


@pytest.mark.slow
def test_threads_are_offered_where_samples_wait_and_collate_gets_each_sample_once():
    found = offers_for(Waiting(by_turns=False), collate_fn=taking_apart)
    threads = [cost.threads for cost in found.threads]
    assert {4, 8, 12} <= {*threads}
    assert max(threads) <= 16
    assert all(cost.time_factor < 0.9 for cost in found.threads)
    assert found.source.good_reads >= max(threads) / 2
    assert all(0 < cost.serial_seconds < WAIT for cost in found.threads)


class Computing(Dataset):
    """Hashes let go of the interpreter's lock."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return torch.tensor(list(hashlib.sha256(bytes(2**20) + bytes([index])).digest()))


@pytest.mark.slow
@pytest.mark.parametrize("may_use_workers", [True, False])
def test_threads_that_share_only_the_cores_are_for_those_who_have_no_workers(may_use_workers):
    found = offers_for(Computing(), may_use_workers=may_use_workers)
    assert ("by 8 threads for whole samples" in found.rewrites.summary) == (not may_use_workers), found
    assert not (found.threads and may_use_workers)
