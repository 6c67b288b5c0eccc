"""A word on rows that are read one by one: where whole batches are the same bit for bit, and much faster."""

import os

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from plumb.core.config import WHOLE_BATCHES, Config
from plumb.core.plan import SampleCost
from plumb.host.forked_trial import in_child
from plumb.rewrites.find_rewrites import find_rewrites
from plumb.rewrites.find_table_batches import whole_batches

ROWS = 600
TABLE = TensorDataset(torch.arange(ROWS), torch.rand(ROWS, 8))


class Arrays(Dataset):
    """Rows of arrays; `row` is made of an index, or of a list of them."""

    def __init__(self, row):
        self.row = row
        self.x, self.y = np.random.default_rng(0).random((ROWS, 8), dtype=np.float32), np.arange(ROWS)

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return self.row(self, index)


def found(dataset, row_seconds=1e-5, **arguments):
    loader = DataLoader(dataset, **{"batch_size": 128, **arguments})
    return whole_batches(loader, list(range(256)), row_seconds, in_child)


@pytest.mark.parametrize(
    "dataset",
    [
        TABLE,
        Subset(TABLE, range(ROWS)[::-1]),
        Arrays(lambda data, index: (data.x[index], data.y[index])),
        Arrays(lambda data, index: {"x": data.x[index], "y": data.y[index]}),
    ],
)
def test_rows_that_whole_batches_give_as_well_are_named(dataset):
    assert "128 Python calls a batch" in str(found(dataset, shuffle=True))


def test_the_arguments_that_are_named_give_the_same_batches_and_draws():
    loader = DataLoader(TABLE, batch_size=128, shuffle=True)
    arguments = whole_batches(loader, list(range(256)), 1e-5, in_child).arguments
    names = {"dataset": TABLE, "BatchSampler": BatchSampler, "RandomSampler": RandomSampler}
    faster = eval(f"DataLoader({arguments})", {"DataLoader": DataLoader, **names})
    seen = []
    for each in (loader, faster):
        torch.manual_seed(5)
        seen.append([batch for _ in range(2) for batch in each] + [[torch.get_rng_state()]])
    assert len(seen[0]) == 2 * 5 + 1
    for one, other in zip(*seen, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.quiet
def test_samplers_are_named_as_far_as_they_are_known():
    assert found(TABLE, drop_last=True).arguments == (
        "dataset, batch_size=None, sampler=BatchSampler(SequentialSampler(dataset), 128, drop_last=True)"
    )
    own = SequentialSampler(range(ROWS // 2))
    assert "your sampler" in found(TABLE, sampler=RandomSampler(own, generator=torch.Generator())).arguments


def noisy(data, index):
    return data.x[index] + np.float32(np.random.random()), data.y[index]


@pytest.mark.parametrize(
    "row",
    [
        noisy,
        lambda data, index: (data.x[index] / np.abs(data.x[index]).max(), data.y[index]),
        lambda data, index: (data.x[index], int(data.y[index])),
        lambda data, index: (data.x[index].sum(), data.y[index]),
        lambda data, index: os.abort() if isinstance(index, list) else (data.x[index], data.y[index]),
    ],
    ids=["random", "of the whole batch", "not for lists", "another shape", "a crash"],
)
def test_nothing_is_said_where_whole_batches_would_be_others(row):
    assert found(Arrays(row)) is None


def test_nothing_is_said_of_slow_rows_small_batches_or_a_collate_of_the_user_s_own_that_does_more():
    assert found(TABLE, row_seconds=1e-2) is None
    assert found(TABLE, batch_size=4) is None
    assert found(TABLE, collate_fn=lambda rows: [part + 1 for part in default_collate(rows)]) is None


class Grouped(TensorDataset):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


def test_nothing_is_said_where_the_dataset_reads_groups_itself():
    assert found(Grouped(*TABLE.tensors)) is None


def test_a_table_is_offered_to_be_read_by_whole_batches_without_workers():
    loader = DataLoader(TABLE, batch_size=128, shuffle=True)
    cost = SampleCost(1e-5, 1e-5, 0.0, 0.0, 40.0, 0.02)
    available = find_rewrites(loader, cost, list(range(ROWS)), 10.0)
    (offered,) = [cost for cost in available.deferrals if cost.operators == WHOLE_BATCHES]
    assert 0 < offered.left.plainly < 1 / 3
    chosen = Config(deferred=WHOLE_BATCHES)
    assert available.whole_batches.in_words(chosen) == (
        "each batch is read by one call instead of 128, bit for bit the same"
    )
    assert str(chosen) == "num_workers=0, whole batches at once"


def test_arrays_of_another_class_are_named_and_not_read_otherwise():
    found_for_arrays = found(Arrays(lambda data, index: (data.x[index], data.y[index])))
    assert found_for_arrays is not None
    assert found_for_arrays.costs == ()
