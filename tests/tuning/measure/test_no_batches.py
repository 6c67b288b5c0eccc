"""Why a loader has no batches, as the user is told."""

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, Subset

from plumb.tuning.measure.no_batches import why_no_batches, why_none_by_lengths

EMPTY = "its dataset is empty"


class Rows(Dataset):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor(index)


class Unsized(Dataset):
    def __getitem__(self, index):
        return torch.tensor(index)


class Stream(IterableDataset):
    def __init__(self, length):
        self.length = length

    def __iter__(self):
        return iter(torch.arange(self.length))


def dropped(whose, samples, size=8):
    return f"{whose} {samples}, fewer than batch_size={size}, and drop_last=True drops an incomplete batch"


def in_batches(length, size):
    return BatchSampler(SequentialSampler(Rows(length)), size, drop_last=True)


BY_LENGTHS = {
    "an empty dataset": (lambda: DataLoader(Rows(0), 8), EMPTY),
    "an empty dataset, dropping": (lambda: DataLoader(Rows(0), 8, drop_last=True), EMPTY),
    "an empty subset": (lambda: DataLoader(Subset(Rows(9), [])), EMPTY),
    "fewer than a batch": (lambda: DataLoader(Rows(7), 8, drop_last=True), dropped("its dataset has", "7 samples")),
    "fewer, shuffled": (
        lambda: DataLoader(Rows(1), 8, shuffle=True, drop_last=True),
        dropped("its dataset has", "1 sample"),
    ),
    "fewer of a sampler's": (
        lambda: DataLoader(Rows(20), 8, sampler=[4, 2, 9], drop_last=True),
        dropped("its sampler gives", "3 samples"),
    ),
    "fewer, in a batch sampler of torch's": (
        lambda: DataLoader(Rows(7), batch_sampler=in_batches(7, 9)),
        dropped("its dataset has", "7 samples", 9),
    ),
    "an empty sampler": (lambda: DataLoader(Rows(7), 2, sampler=[]), "its sampler is empty"),
    "an empty sampler without batches": (lambda: DataLoader(Rows(7), None, sampler=[]), "its sampler is empty"),
    "an empty batch sampler": (lambda: DataLoader(Rows(7), batch_sampler=[]), "its batch sampler is empty"),
}
OTHERWISE = {
    "a sampler that is used up": (lambda: DataLoader(Rows(7), 2, sampler=iter(())), "its sampler gives no indices"),
    "one of single indices": (lambda: DataLoader(Unsized(), None, sampler=iter(())), "its sampler gives no batches"),
    "one of batches": (lambda: DataLoader(Rows(7), batch_sampler=iter(())), "its batch sampler gives no batches"),
    "an empty stream": (lambda: DataLoader(Stream(0), 8), "its dataset gives no samples"),
    "an empty stream without batches": (lambda: DataLoader(Stream(0), None), "its dataset gives no samples"),
    "a short stream": (
        lambda: DataLoader(Stream(7), 8, drop_last=True),
        "its dataset gives no full batch (batch_size=8), and drop_last=True drops others",
    ),
}


@pytest.mark.parametrize(("make", "why"), BY_LENGTHS.values(), ids=BY_LENGTHS)
def test_lengths_show_why_a_loader_has_no_batches(make, why):
    assert list(make()) == []
    assert why_none_by_lengths(make()) == why_no_batches(make()) == why


@pytest.mark.parametrize(("make", "why"), OTHERWISE.values(), ids=OTHERWISE)
def test_what_no_length_shows_is_said_of_what_gave_nothing(make, why):
    assert list(make()) == []
    assert why_none_by_lengths(make()) is None
    assert why_no_batches(make()) == why


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Rows(8), 8, drop_last=True),
        DataLoader(Rows(7), 8),
        DataLoader(Rows(7), None),
        DataLoader(Unsized(), 2, sampler=[1, 2], drop_last=True),
        DataLoader(Rows(7), batch_sampler=[[1]]),
    ],
    ids=["a full batch", "not dropped", "single", "unsized", "batches"],
)
def test_lengths_of_a_loader_with_batches_show_nothing(loader):
    assert list(loader)
    assert why_none_by_lengths(loader) is None
