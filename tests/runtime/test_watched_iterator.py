"""Loaders whose iterator can't be plumb's are looked after as far as a plan changes anything in them."""

import dataclasses

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from plumb.core.config import CacheChoice, Config, Cut, Rewrites
from plumb.runtime.checks import running_checks
from plumb.runtime.replay.sample_code import code_of_samples
from plumb.runtime.unchecked_loaders import why_unchecked
from tests.runtime.test_order_programs import planned_on
from tests.runtime.test_state_guard import trained

STORE = Config(cache=CacheChoice("sample", "memory", 2**24, 1.0))


class OwnIterator(DataLoader):
    """Makes its iterator by itself."""

    def _get_iterator(self):
        return super()._get_iterator()


class OwnSampler(DataLoader):
    @property
    def _index_sampler(self):
        return super()._index_sampler


def stateful(*arguments, **keywords):
    module = pytest.importorskip("torchdata.stateful_dataloader")
    return module.StatefulDataLoader(*arguments, **keywords)


class Rows(Dataset):
    progress = 0

    def __init__(self):
        self.rare, self.lost = [], {}

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return torch.tensor(index + 1000 * self.progress)


class Table(Rows):
    """Samples that change in a way that no look at the dataset shows."""

    def __getitem__(self, index):
        return torch.tensor(index + 1000 * vars(torch).get("_of_this_test", 0))


KINDS = pytest.mark.parametrize("kind", [OwnIterator, OwnSampler, stateful])


def rewrites_of(dataset):
    return Rewrites((Cut("sample", (), (), code_of_samples(dataset)),))


@KINDS
@pytest.mark.parametrize("config", [STORE, Config(0, fetch_threads=3)], ids=["store", "threads"])
def test_what_the_loop_changes_is_never_late(kind, config):
    def train(loader, begin):
        for _ in range(2):
            for step, batch in enumerate(begin()):
                yield batch.tolist()
                loader.dataset.progress = step // 3

    plain, planned, said = trained(lambda: kind(Rows(), batch_size=4), train, config, rewrites_of(Rows()))
    assert planned == plain
    (line,) = said
    assert "the loop changes Rows.progress while an epoch runs" in line


@pytest.mark.slow
@pytest.mark.quiet  # by what checks cost, a busy host leaves some out
@KINDS
def test_batches_are_checked(kind, monkeypatch):
    monkeypatch.setattr(running_checks, "tallies", [])
    monkeypatch.setattr(running_checks, "_say_at_the_end", lambda: None)

    def train(loader, begin):
        for epoch in range(3):
            vars(torch)["_of_this_test"] = epoch
            yield [batch.tolist() for batch in begin()]
        del vars(torch)["_of_this_test"]

    plain, planned, said = trained(lambda: kind(Table(), batch_size=4), train, STORE, rewrites_of(Table()))
    assert planned == plain
    (line,) = said
    assert "batch 1 of epoch 2 differs" in line
    assert running_checks.tallies[0].equal > 0


def in_any_order(*arguments, **keywords):
    return DataLoader(*arguments, **keywords, in_order=False)


@pytest.mark.parametrize("kind", [OwnIterator, OwnSampler, stateful, in_any_order])
def test_what_can_t_be_checked_in_the_script_s_own_workers_is_made_as_the_script_makes_it(kind):
    def train(loader, begin):
        for epoch in range(3):
            vars(torch)["_of_this_test"] = epoch
            yield sorted(value for batch in begin() for value in batch.tolist())
        del vars(torch)["_of_this_test"]

    users = Config(1, 2, in_order=kind is not in_any_order)
    config = dataclasses.replace(STORE, num_workers=2, prefetch_factor=2, in_order=users.in_order)
    make = lambda: kind(Table(), batch_size=4, num_workers=1)  # noqa: E731
    plain, planned, said = trained(make, train, config, rewrites_of(Table()))
    assert planned == plain
    assert plain[0] != plain[1]
    (line,) = set(said)
    assert "its batches can't be checked while it runs (" in line
    assert why_unchecked(make(), users) in line
    assert why_unchecked(kind(Table(), batch_size=4), Config()) is None


@pytest.mark.parametrize("kind", [OwnIterator, OwnSampler])
def test_workers_that_can_t_be_looked_after_are_left_out(kind):
    def train(loader, begin):
        for _ in range(2):
            yield [batch.tolist() for batch in begin()]
            yield loader.dataset.rare

    plain, planned, said = trained(lambda: kind(Rows(), batch_size=4), train, Config(2, 2))
    assert planned == plain
    assert set(said) == {
        "loader (train.py:1): its class makes its own iterator; workers are left out, as the script has it"
    }


class Writing(Rows):
    def __getitem__(self, index):
        if index == 31:
            self.rare.append(index)
        return torch.tensor(index)


def test_an_order_that_the_script_gives_up_is_kept_where_it_has_no_workers():
    def train(loader, begin):
        for _ in range(2):
            yield [batch.tolist() for batch in begin()]
            yield list(loader.dataset.rare)

    make = lambda: DataLoader(Writing(), batch_size=4, in_order=False)  # noqa: E731
    plain, planned, said = trained(make, train, Config(2, 2, in_order=False))
    assert planned == plain
    (line,) = said
    assert "a sample changed Writing.rare" in line


class Stream(IterableDataset):
    def __init__(self):
        self.level = 0

    def __iter__(self):
        info = get_worker_info()
        for number in range(info.id if info else 0, 400, info.num_workers if info else 1):
            yield torch.tensor([number, self.level])


def test_a_stream_that_the_loop_changes_is_the_script_s_own_from_the_next_epoch_on():
    loader, said = DataLoader(Stream(), batch_size=4), []
    planned = planned_on(loader, Config(2, 2, persistent_workers=True), Config(), compared=(0, 2))
    begin = lambda: planned.start_unseen(loader, lambda: iter(loader), said.append)  # noqa: E731
    for _ in begin():
        loader.dataset.level = 1
    (line,) = said
    assert "the loop changes Stream.level while an epoch runs: up to 4 batches show it late" in line
    batches = begin()
    assert type(batches).__name__ == "_SingleProcessDataLoaderIter"
    assert all(batch[:, 1].eq(1).all() for batch in batches)
