"""What epochs of a run cost beside their batches: starts and ends of workers, as long as a test makes them."""

import dataclasses
import threading
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from plumb.core.config import Config
from plumb.tuning import epoch_rehearsal
from plumb.tuning.epoch_rehearsal import PlanLeftError, rehearse_epochs
from plumb.tuning.loader_under_test import LoaderUnderTest
from tests.parts.observers import observed_worker
from tests.runtime.test_clocked_runs import entry

START_SECONDS = 0.5
BATCHES = [[0, 1], [2, 3]]


class Rows(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.tensor([index])


def begin_slowly(worker):
    time.sleep(START_SECONDS)


def costs(config, own=None):
    own = own or Config()
    loader = DataLoader(Rows(), 2, shuffle=True, worker_init_fn=begin_slowly, **own.loader_arguments())
    state = torch.get_rng_state()
    found = rehearse_epochs(loader, dataclasses.replace(entry(config, own), samples_per_batch=2), BATCHES, 1e6)
    assert torch.equal(torch.get_rng_state(), state)
    return found


def test_workers_that_start_with_each_epoch_cost_each_epoch():
    found = costs(Config(2, 2))
    assert min(found.first, found.later) >= START_SECONDS
    assert found.own == 0.0


def test_workers_that_outlive_their_epoch_cost_the_first():
    found = costs(Config(2, 2, persistent_workers=True))
    assert found.first >= START_SECONDS
    assert found.later < found.first - START_SECONDS / 2


def test_the_users_own_workers_cost_too():
    found = costs(Config(2, 2), Config(1, 2))
    assert found.own >= 0.9 * START_SECONDS


def test_what_cannot_be_rehearsed_is_not_told():
    class Broken(Rows):
        def __getitem__(self, index):
            raise ValueError("no such file")

    loader = DataLoader(Broken(), 2)
    assert rehearse_epochs(loader, entry(Config(1, 2), Config()), BATCHES, 1e6) is None
    assert rehearse_epochs(loader, entry(Config(1, 2), Config()), [], 1e6) is None


class Hanging(Rows):
    """Samples that hang in workers, which a trial need not see: it reads what its store holds."""

    def __getitem__(self, index):
        info = observed_worker()
        if info is not None and info.num_workers > 1:
            threading.Event().wait()
        return super().__getitem__(index)


def test_a_plan_whose_workers_hang_is_given_up(monkeypatch):
    monkeypatch.setattr(epoch_rehearsal, "_SILENT_SECONDS", 1.0)
    monkeypatch.setattr("plumb.runtime.epoch.epoch_iterator.PATIENCE_BATCHES", 0.0)
    loader = DataLoader(Hanging(), 2)
    with pytest.raises(PlanLeftError, match="failed"):
        rehearse_epochs(loader, entry(Config(2, 2), Config()), BATCHES, 1e6)


class Endless:
    """The sampler of loaders that keep one iterator for the whole training."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __iter__(self):
        while True:
            yield from iter(self.sampler)


class OneIterator(DataLoader):
    """As timm's `MultiEpochsDataLoader` and YOLO's `InfiniteDataLoader`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._DataLoader__initialized = False
        self.batch_sampler = Endless(self.batch_sampler)
        self._DataLoader__initialized = True
        self.iterator = super().__iter__()

    def __len__(self):
        return len(self.batch_sampler.sampler)

    def __iter__(self):
        for _ in range(len(self)):
            yield next(self.iterator)


def test_an_iterator_that_lives_as_long_as_the_training_has_no_epoch_that_starts_are_charged_to():
    assert LoaderUnderTest("loader", OneIterator(Rows(), 2), 2.0, None, None).epoch_samples is None
    assert LoaderUnderTest("loader", DataLoader(Rows(), 2), 2.0, None, None).epoch_samples == pytest.approx(8.0)
