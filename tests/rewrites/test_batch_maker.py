"""Batches that are made here are those of a loader, and leave the dataset as it is."""

import pytest
import torch
from torch.utils.data import DataLoader, default_collate, get_worker_info

from plumb.rewrites.batch_maker import Plain, RewrittenBatchMaker, has_room_to_share
from plumb.runtime.fetch import Fetch

ROWS = torch.rand(64, 8)
INDICES = list(range(8))


def ways(loader):
    return [Plain(loader), RewrittenBatchMaker(loader, Fetch(), INDICES)]


@pytest.mark.parametrize("place", [0, 1])
def test_torch_s_own_collate_puts_a_batch_into_shared_memory_as_in_a_worker(place):
    way = ways(DataLoader(ROWS, batch_size=8))[place]
    batch, shared = way.make_shared(INDICES)
    assert batch.is_shared()
    assert [tensor.data_ptr() for tensor in shared] == [batch.data_ptr()], "it is not copied once more"
    assert torch.equal(batch, way.make(INDICES))
    assert not way.make(INDICES).is_shared()


@pytest.mark.parametrize("place", [0, 1])
def test_what_another_collate_returns_is_copied_and_stays_where_it_was(place):
    """A worker would share what it hands over, in memory of its own."""
    seen = []

    def collate(samples):
        seen.append(get_worker_info())
        return {"first": samples[0], "none": torch.empty(0), "sparse": torch.eye(3).to_sparse(), "name": "x"}

    way = ways(DataLoader(ROWS, collate_fn=collate))[place]
    seen.clear()
    batch, (shared,) = way.make_shared(INDICES)
    assert shared.is_shared()
    assert torch.equal(shared, ROWS[0])
    assert not ROWS.is_shared()
    assert batch["first"].data_ptr() == ROWS.data_ptr()
    way.make(INDICES)
    in_worker, in_main = seen
    assert in_worker.id == 0
    assert in_worker.dataset is ROWS
    assert in_main is None


def test_a_collate_that_fails_leaves_this_process_as_it_was():
    def collate(samples):
        raise ValueError("no batch")

    with pytest.raises(ValueError, match="no batch"):
        Plain(DataLoader(ROWS, collate_fn=collate)).make_shared(INDICES)
    assert get_worker_info() is None


def test_there_is_room_for_a_few_batches_or_none_is_put_there(monkeypatch):
    class Shared:
        f_bavail, f_blocks, f_frsize = 10, 100, 4096

    monkeypatch.setattr("os.statvfs", lambda _: Shared)
    assert has_room_to_share(default_collate([torch.zeros(1024)]))
    assert not has_room_to_share({"x": [torch.zeros(1024), torch.zeros(2048)]})

    def missing(_):
        raise FileNotFoundError

    monkeypatch.setattr("os.statvfs", missing)
    assert not has_room_to_share(torch.zeros(1))
