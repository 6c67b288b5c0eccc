"""Loaders whose samples depend on the worker that makes them deliver torch's own batches, whatever the plan says."""

import os
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from plumb.core.config import CacheChoice, Config
from tests.ways import WAYS, every_way, trained

OWN = Config(2, 2)
LASTING = Config(2, 2, persistent_workers=True)
STORE = CacheChoice("sample", "memory", 2**24, 1.0)
PLANS = (Config(4, 4), Config(), Config(fetch_threads=4), Config(2, 8), Config(2, 4, allocator_reuse=True),
         Config(2, 2, persistent_workers=True), Config(2, 2, fetch_threads=4), Config(2, 2, cache=STORE))  # fmt: skip


class Rows(Dataset):
    """Samples that tell to which bank their worker's copy belongs."""

    bank = 0

    def __len__(self):
        return 44

    def __getitem__(self, index):
        return torch.tensor([index, self.bank])

    def use_bank(self, bank):
        self.bank = bank


class Asking(Rows):
    def __getitem__(self, index):
        info = get_worker_info()
        return torch.tensor([index, -1 if info is None else info.id])


class Opening(Rows):
    process = None

    def __getitem__(self, index):
        if self.process != os.getpid():
            self.process = os.getpid()
        return torch.tensor([index, 0])


def asked(samples):
    info = get_worker_info()
    return torch.stack(samples), -1 if info is None else info.id


def set_bank(worker):
    get_worker_info().dataset.bank = worker + 1


def call_bank(worker):
    get_worker_info().dataset.use_bank(worker + 1)


def by_another(worker):
    set_bank(worker)


def given_factor(factor, worker):
    get_worker_info().dataset.bank = factor * worker


class Starting:
    def __call__(self, worker):
        if worker == 1:
            get_worker_info().dataset.bank = 7

    def start(self, worker):
        self(worker)


INITS = {
    "a function": set_bank,
    "a method of the dataset": call_bank,
    "a function that it calls": by_another,
    "a partial": partial(given_factor, 3),
    "an object": Starting(),
    "a bound method": Starting().start,
    "a lambda": lambda worker: setattr(get_worker_info().dataset, "bank", worker),
}


def loader_of(own, dataset=Rows, collate=None, init=None):
    return DataLoader(dataset(), 4, collate_fn=collate, worker_init_fn=init, **own.loader_arguments())


def epochs(loader, begin):
    for epoch in range(3):
        for number, batch in enumerate(begin()):
            yield [leaf.tolist() if isinstance(leaf, torch.Tensor) else leaf for leaf in (batch, epoch, number)]


@pytest.mark.parametrize("init", INITS.values(), ids=INITS)
def test_workers_with_an_identity_by_their_init_stay_the_script_s(init, monkeypatch):
    plain, found, said = trained(WAYS["plan"], partial(loader_of, OWN, init=init), epochs, Config(4, 2), monkeypatch)
    assert found == plain
    assert len({bank for rows, _, _ in plain for _, bank in rows}) == 2
    assert "worker_init_fn does more than seed generators" in said[0]
    assert "test_own_workers.py:" in said[0]
    assert "it runs as the script has it" in said[0]


@every_way
@pytest.mark.parametrize("config", PLANS, ids=str)
def test_no_plan_changes_which_worker_makes_a_batch(way, config, monkeypatch):
    plain, found, _ = trained(way, partial(loader_of, OWN, init=set_bank), epochs, config, monkeypatch)
    assert found == plain


@pytest.mark.parametrize(
    "config", [Config(2, 8, persistent_workers=True), Config(4, 2, persistent_workers=True)], ids=str
)
def test_lasting_workers_keep_their_identity(config, monkeypatch):
    make = partial(loader_of, LASTING, init=set_bank)
    plain, found, _ = trained(WAYS["plan"], make, epochs, config, monkeypatch)
    assert found == plain


@every_way
@pytest.mark.parametrize("own", [OWN, Config()], ids=str)
@pytest.mark.parametrize("config", [Config(4, 2), Config(1, 2), Config(2, 4, fetch_threads=4)], ids=str)
@pytest.mark.parametrize(("dataset", "collate"), [(Asking, None), (Rows, asked)], ids=["samples", "collate"])
def test_code_that_reads_its_worker_gets_the_script_s_workers(way, dataset, collate, own, config, monkeypatch):
    make = partial(loader_of, own, dataset, collate)
    plain, found, _ = trained(
        way, make, lambda loader, begin: [str(each) for each in epochs(loader, begin)], config, monkeypatch
    )
    assert found == plain


def seed_all(worker):
    seed = torch.initial_seed() % 2**32 + worker
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
    torch.set_num_threads(1)


@pytest.mark.parametrize(("dataset", "init"), [(Rows, seed_all), (Opening, None)], ids=["seeds", "opens files"])
def test_seeds_and_files_opened_in_each_process_leave_the_workers_to_the_plan(dataset, init, monkeypatch):
    counts = []

    def train(loader, begin):
        for batch in begin():
            counts.append(loader.num_workers)
            yield batch.tolist()

    make = partial(loader_of, OWN, dataset, init=init)
    plain, found, said = trained(WAYS["plan"], make, train, Config(4, 2), monkeypatch)
    assert found == plain
    assert not said
    assert set(counts[len(plain) :]) == {4}
