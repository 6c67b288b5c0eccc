"""Rows of tensors that are read by whole batches are what torch collates of them: bits, order, errors and draws."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset, TensorDataset, random_split

from plumb.core.config import WHOLE_BATCHES, Config
from plumb.runtime.loader import Loader
from plumb.runtime.table_batches import may_read_whole, whole_batch

ROWS = 100
TABLE = TensorDataset(
    torch.arange(ROWS), torch.rand(ROWS, 5), torch.rand(ROWS, 2, 3).bfloat16(), torch.rand(ROWS) > 0.5
)
WHOLE = Config(deferred=WHOLE_BATCHES)
IN_WORKERS = Config(2, 2, persistent_workers=True, deferred=WHOLE_BATCHES)
REUSING = Config(2, 2, persistent_workers=True, allocator_reuse=True, deferred=WHOLE_BATCHES)


def loaders(dataset, config, **arguments):
    return (
        Loader(dataset, config=config, **arguments),
        DataLoader(dataset, **arguments, **config.loader_arguments()),
    )


def epochs(loader, count=2):
    torch.manual_seed(3)
    return [batch for _ in range(count) for batch in loader], torch.get_rng_state()


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert type(our) is type(their) is list
        for one, other in zip(our, their, strict=True):
            assert (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
            assert torch.equal(one, other)


DATASETS = {
    "table": TABLE,
    "one column": TensorDataset(torch.rand(ROWS)),
    "part": Subset(TABLE, [*range(0, ROWS, 3), -1]),
    "part of a part": Subset(random_split(TABLE, [60, 40])[0], torch.arange(59)),
    "needs a gradient": TensorDataset(torch.rand(ROWS, 3).requires_grad_()),
    "transposed": TensorDataset(torch.rand(5, ROWS).t()),
    "expanded": TensorDataset(torch.rand(1, 3).expand(ROWS, 3)),
    "no columns": TensorDataset(torch.rand(ROWS, 0)),
}


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_order_and_draws_are_torch_s(name, drop_last):
    ours, theirs = loaders(DATASETS[name], WHOLE, batch_size=7, shuffle=True, drop_last=drop_last)
    (our, our_state), (their, their_state) = epochs(ours), epochs(theirs)
    assert_same(our, their)
    assert torch.equal(our_state, their_state)


@pytest.mark.parametrize("config", [IN_WORKERS, REUSING], ids=str)
@pytest.mark.parametrize("name", ["table", "part"])
def test_batches_of_workers_are_torch_s(name, config):
    ours, theirs = loaders(DATASETS[name], config, batch_size=7, shuffle=True)
    (our, our_state), (their, their_state) = epochs(ours), epochs(theirs)
    assert_same(our, their)
    assert torch.equal(our_state, their_state)


def test_rows_are_not_read_one_by_one(monkeypatch):
    monkeypatch.setattr(TensorDataset, "__getitem__", lambda *_: pytest.fail("a row was read"))
    loader = Loader(TABLE, config=WHOLE, batch_size=7)
    assert [len(batch[0]) for batch in loader] == [7] * 14 + [2]


def test_what_the_loop_does_to_a_batch_stays_in_it_and_what_it_does_to_the_table_is_seen():
    table = TensorDataset(torch.arange(10.0))
    loader = Loader(table, config=WHOLE, batch_size=10)
    for (batch,) in loader:
        batch.zero_()
    assert table.tensors[0].tolist() == list(range(10))
    table.tensors[0].add_(1)
    assert next(iter(loader))[0].tolist() == list(range(1, 11))
    table.tensors = (torch.ones(10),)
    assert next(iter(loader))[0].tolist() == [1] * 10


@pytest.mark.parametrize("indices", [[0, 100], [0, -101], ["a"]])
def test_errors_are_torch_s(indices):
    for loader in loaders(TABLE, WHOLE, batch_sampler=[[1, 2], indices]):
        batches = iter(loader)
        next(batches)
        with pytest.raises((IndexError, TypeError, ValueError)) as raised:
            next(batches)
        if type(loader) is Loader:
            ours = raised
    assert (raised.type, str(raised.value)) == (ours.type, str(ours.value))


@pytest.mark.parametrize("indices", [[True, True], [torch.tensor(2), torch.tensor(1)], [-1, 3], [[1, 2], [3, 4]], []])
def test_unusual_indices_give_the_rows_that_they_give_anyway(indices):
    ours, theirs = loaders(TABLE, WHOLE, batch_sampler=[indices] if indices else [])
    assert_same(list(ours), list(theirs))
    found = whole_batch(TABLE, indices)
    assert (found is None) == (not indices or not isinstance(indices[0], torch.Tensor))


class Own(TensorDataset):
    def __getitem__(self, index):
        return tuple(tensor[index] + 1 for tensor in self.tensors[:1])


class Rows(Dataset):
    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return torch.full((3,), index)


@pytest.mark.parametrize(
    ("dataset", "arguments"),
    [
        (Own(torch.arange(ROWS)), {}),
        (Rows(), {}),
        (TABLE, {"collate_fn": lambda rows: len(rows)}),
        (TABLE, {"batch_size": None}),
    ],
)
def test_other_datasets_and_collate_functions_are_left_alone(dataset, arguments):
    arguments = {"batch_size": 8, **arguments}
    ours, theirs = loaders(dataset, WHOLE, **arguments)
    assert not may_read_whole(ours)
    for our, their in zip(ours, theirs, strict=True):
        assert repr(our) == repr(their)


def test_a_sampler_with_a_generator_of_its_own_is_asked_as_ever():
    def sampler():
        return RandomSampler(TABLE, replacement=True, num_samples=30, generator=torch.Generator().manual_seed(1))

    ours = Loader(TABLE, config=WHOLE, batch_size=8, sampler=sampler())
    theirs = DataLoader(TABLE, batch_size=8, sampler=sampler())
    assert_same([*ours, *ours], [*theirs, *theirs])
