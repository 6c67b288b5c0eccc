"""The unit of all rates: how many samples a batch holds, whoever makes the batches, and whether one was seen or not."""

import weakref

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from plumb.core.errors import TuningError
from plumb.host import Limits
from plumb.instrument.call_site import Site
from plumb.tuning import in_loop
from plumb.tuning.loader_under_test import LoaderUnderTest
from plumb.tuning.measure.known_loader import KnownLoader
from plumb.tuning.measure.samples_per_batch import samples_per_batch
from plumb.tuning.options import Options


class Rows(Dataset):
    def __len__(self):
        return 1280

    def __getitem__(self, index):
        return torch.full((64,), float(index))


class Shards(Dataset):
    """Makes a batch of 48 of each index."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.zeros(48, 3)


class Stream(IterableDataset):
    def __iter__(self):
        yield from [torch.zeros(20, 3)] * 5


class Named(Shards):
    """Made for keys in place of numbers, as for files."""

    def __getitem__(self, key):
        assert isinstance(key, str)
        return torch.zeros(48, 3)


class Buckets:
    """A sampler of batches without a size of its own."""

    def __iter__(self):
        yield from [[0, 1], [2, 3, 4, 5], [6, 7, 8]]

    def __len__(self):
        return 3


class Broken(Dataset):
    def __getitem__(self, index):
        raise OSError("no disk")


ROWS = Rows()
SAMPLER = SequentialSampler(ROWS)


@pytest.mark.parametrize(
    ("loader", "samples"),
    [
        (DataLoader(ROWS, batch_size=16), 16),
        (DataLoader(ROWS, batch_size=5000), 1280),
        (DataLoader(ROWS, batch_sampler=BatchSampler(SAMPLER, 32, False)), 32),
        (DataLoader(ROWS, batch_sampler=Buckets()), 3),
        (DataLoader(ROWS, batch_size=None, sampler=BatchSampler(SAMPLER, 8, False)), 8),
        (DataLoader(Shards(), batch_size=None), 48),
        (DataLoader(Named(), batch_size=None, sampler=["one.tar", "two.tar"]), 48),
        (DataLoader(Stream(), batch_size=None), 20),
        (DataLoader(Stream(), batch_size=4), 4),
        (DataLoader(Broken(), batch_size=None, sampler=[1]), 1),
    ],
)
def test_a_loader_that_was_never_iterated(loader, samples):
    before = torch.get_rng_state()
    assert samples_per_batch(loader) == samples
    assert torch.equal(before, torch.get_rng_state())


def test_index_batches_count_and_not_what_collate_makes_of_them():
    """Texts of a batch that are packed into one row of tokens."""
    packing = DataLoader(ROWS, batch_sampler=BatchSampler(RandomSampler(ROWS), 16, False), collate_fn=torch.cat)
    assert samples_per_batch(packing, seen=1024.0) == 16
    assert samples_per_batch(DataLoader(Shards(), batch_size=None), seen=24.0) == 24


def test_an_evaluation_loader_with_a_batch_sampler_is_tuned_for_its_own_epochs(monkeypatch):
    """What workers cost to start is spread over 1,280 samples, and not over 40."""
    subjects = []

    def tuner(subject, *_):
        subjects.append(subject)
        raise TuningError("as far as this test goes", 1)

    monkeypatch.setattr(in_loop, "Tuner", tuner)
    loader = DataLoader(ROWS, batch_sampler=BatchSampler(SAMPLER, 32, False), num_workers=2)
    known = KnownLoader("val", Site("train.py", 1, "val"), weakref.ref(loader), None)
    with pytest.raises(TuningError):
        in_loop.TuningWork(Options(10.0, Limits()), lambda event: None).run_alone(known, loader, 5.0)
    assert (subjects[0].samples_per_batch, subjects[0].epoch_samples) == (32, 1280)


def test_the_last_batch_of_an_epoch_is_not_taken_for_a_whole_one():
    subject = LoaderUnderTest("val", DataLoader(ROWS, batch_size=1000), 1000.0, None, None)
    assert subject.epoch_samples == 1280
    assert LoaderUnderTest("x", DataLoader(Stream(), batch_size=4), 4.0, None, None).epoch_samples is None
