"""Iterable datasets and workers: who shares samples out, what is verified of it, and sharing out with consent."""

import copy
import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from plumb.runtime.sharded import Sharded
from plumb.tuning.iterable_sharding import examine


class Stream(IterableDataset):
    """Numbers, all of them in every worker."""

    def __init__(self, length=32, start=0):
        self.start, self.end = start, start + length

    def numbers(self):
        return range(self.start, self.end)

    def __iter__(self):
        return (torch.tensor(number) for number in self.numbers())


class ByWorker(Stream):
    def numbers(self):
        info = get_worker_info()
        return range(self.start, self.end) if info is None else range(self.start + info.id, self.end, info.num_workers)


class InBlocks(Stream):
    """Whole batches of four in turn, so that the order is kept."""

    def __iter__(self):
        return iter(Sharded(Stream(self.end - self.start, self.start), 4))


class HalfSharded(Stream):
    """Looks at the worker's info, and lets shards overlap all the same."""

    def numbers(self):
        info = get_worker_info()
        return range(self.start, self.end) if info is None else range(self.start + info.id, self.end)


class BakedCount(Stream):
    """As open_clip's: every worker delivers as many batches as were worked out for another number of workers."""

    def numbers(self):
        info = get_worker_info()
        return range(self.start, self.end) if info is None else range(info.id * 8, info.id * 8 + 8)


class Endless(Stream):
    def numbers(self):
        get_worker_info() and get_worker_info().id
        return itertools.count()


class Failing(Stream):
    def numbers(self):
        raise ValueError("no such shard")


class Augmented(ByWorker):
    def __iter__(self):
        return (torch.rand(2) for _ in self.numbers())


def halved_by_init(worker_id):
    info = get_worker_info()
    dataset, share = info.dataset, (info.dataset.end - info.dataset.start) // info.num_workers
    dataset.start += worker_id * share
    dataset.end = dataset.start + share


def examined(dataset, counts=(2,), own=0, seconds=30.0, **arguments):
    return examine(DataLoader(dataset, batch_size=4, num_workers=own, **arguments), own, counts, seconds)


def test_a_dataset_that_never_asks_is_found_out():
    found = examined(Stream())
    assert found.asks is False
    assert (found.same, found.reordered) == ((), ())


def test_a_dataset_that_shards_itself_is_verified_with_the_counts_that_fit_its_batches():
    found = examined(ByWorker(32), counts=(2, 3))
    assert found.asks
    assert found.reordered == (2,), "with three workers there are more and smaller batches"
    assert found.same == ()
    assert "32 samples in 8 batches with num_workers=0, but 32 in 9 with 3" in found.reason


def test_one_that_shards_whole_batches_keeps_their_order():
    assert examined(InBlocks(32), counts=(1, 2, 3)).same == (1, 2, 3)


def test_sharding_by_worker_init_fn_is_seen():
    found = examined(Stream(32), counts=(2,), worker_init_fn=halved_by_init)
    assert found.asks
    assert found.reordered == (2,)


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (HalfSharded(32), "but 63 in"),
        (BakedCount(32), "but 16 in 4"),
        (Augmented(32), "not the same ones"),
        (Failing(32), "no such shard"),
    ],
)
def test_what_does_not_come_out_the_same_is_no_count_to_use(dataset, reason):
    found = examined(dataset)
    assert (found.same, found.reordered) == ((), ())
    assert reason in found.reason


def test_an_endless_stream_can_not_be_verified():
    found = examined(Endless(), seconds=1.0)
    assert found.asks
    assert (found.same, found.reordered) == ((), ())
    assert "no time to compare" in found.reason


def test_the_process_s_own_generators_are_left_alone():
    before = torch.random.get_rng_state()
    examined(Augmented(32))
    assert torch.equal(before, torch.random.get_rng_state())


def share(dataset, workers, block):
    loader = DataLoader(Sharded(dataset, block), batch_size=block, num_workers=workers)
    return [batch.tolist() for batch in loader]


@settings(max_examples=8)
@given(st.integers(0, 40), st.integers(1, 5), st.integers(0, 3))
def test_sharded_batches_are_the_same_for_every_number_of_workers(length, block, workers):
    alone = [batch.tolist() for batch in DataLoader(Stream(length), batch_size=block)]
    assert share(Stream(length), workers, block) == alone


def test_a_sharded_dataset_looks_like_the_user_s_own():
    dataset = Stream(8)
    dataset.classes = ["a", "b"]
    for sharded in (Sharded(dataset), pickle.loads(pickle.dumps(Sharded(dataset))), copy.deepcopy(Sharded(dataset))):
        assert sharded.classes == ["a", "b"]
        assert [int(sample) for sample in sharded] == list(range(8))
        with pytest.raises(AttributeError):
            sharded.nothing
    with pytest.raises(ValueError, match="at least one"):
        Sharded(dataset, 0)
