"""Iterators that plumb puts in torch's place are torch's to all who look."""

import copy
import pickle

import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from plumb.runtime.deferred.skipped_operators import Undeferred
from plumb.runtime.epoch.persistent_epochs import PersistentEpochs
from plumb.tuning.measure.known_loader import KnownLoader, WatchedIterator


def watched(loader):
    known = KnownLoader("loader", None, None, 2)
    return WatchedIterator(known, iter(loader), loader.__iter__, True, lambda each: next(each.batches))


def watched_in_a_tuning(loader):
    """One that the loop begins while the first is tuned: it has batches of the tuning's."""
    first = watched(loader)
    return WatchedIterator(first.known, iter(()), loader.__iter__, True, lambda each: next(first.batches))


def finished_on_a_device(loader):
    return Undeferred(iter(loader), has_workers=False)


def lasting(loader):
    return PersistentEpochs().start(loader, loader.__iter__)


def lasting_and_finished(loader):
    return PersistentEpochs().start(loader, lambda: finished_on_a_device(loader))


MADE = [watched, finished_on_a_device, lasting, lasting_and_finished]


@pytest.mark.parametrize("make", [*MADE, watched_in_a_tuning])
def test_their_class_and_batches_are_torch_s(make):
    loader = DataLoader(torch.arange(8), batch_size=2)
    iterator = make(loader)
    assert isinstance(iterator, _BaseDataLoaderIter)
    assert iterator.__class__ is iter(loader).__class__
    assert iter(iterator) is iterator
    assert [batch.tolist() for batch in iterator] == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("make", MADE)
@pytest.mark.parametrize("again", [pickle.dumps, copy.copy, copy.deepcopy])
def test_they_are_copied_and_pickled_as_torch_s(make, again):
    loader = DataLoader(torch.arange(8), batch_size=2)
    iterator, plain = make(loader), iter(loader)
    assert (len(iterator), iterator._num_yielded) == (len(plain), 0)
    with pytest.raises(NotImplementedError) as raised:
        again(plain)
    with pytest.raises(NotImplementedError) as other:
        again(iterator)
    assert other.value.args == raised.value.args


def test_an_iterator_of_a_subclass_is_what_the_subclass_gives():
    class Pairs(DataLoader):
        def __iter__(self):
            return iter([1, 2])

    iterator = watched(Pairs([0]))
    assert not isinstance(iterator, _BaseDataLoaderIter)
    assert list(pickle.loads(pickle.dumps(iterator))) == [1, 2]
    assert list(iterator) == [1, 2]
