"""One session over a script's loaders, in this process, with a stand-in for the tuning itself."""

import weakref

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from plumb import events
from plumb.session import Session
from plumb.site import Site


class Over(BaseException):
    """Stands for the end of the script's process."""


class Noted:
    """Work that only notes which loaders it was given."""

    only_one = False

    def __init__(self):
        self.alone_with = []

    def alone(self, known, loader, seconds):
        self.alone_with.append(known.name)
        return events.Phase(known.name)


@pytest.fixture
def started(monkeypatch):
    """A session whose end is `Over`, the work it does, and what it told its parent."""
    told = []
    work = Noted()
    session = Session(lambda: work, 10.0, told.append, list)

    def end():
        raise Over

    monkeypatch.setattr(session, "end_script", end)
    return session, work, told


def seen(session, loader, name):
    """A loader that the script makes, and reads to its end without training on it."""
    session.constructed(loader, Site("train.py", 1, name))
    for _ in session.iterating(loader, lambda: iter([torch.zeros(2)] * 3), plain_loop=True):
        pass


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield 1


class Odd(DataLoader):
    """A loader of which nothing can be asked that it needn't be asked."""

    def __len__(self):
        raise RuntimeError("not before the data are there")

    def __bool__(self):
        raise RuntimeError("neither true nor false")


@pytest.mark.parametrize(
    "loader", [DataLoader(Endless()), Odd(Endless()), Odd([1, 2, 3])], ids=["stream", "odd", "map"]
)
def test_a_loader_that_never_trained_is_tuned_on_its_own_whatever_its_length_raises(started, loader):
    session, work, _ = started
    seen(session, loader, "valid")
    with pytest.raises(Over):
        session.script_ended(None)
    assert work.alone_with == ["valid"]


def test_a_loader_that_the_script_has_let_go_of_is_left_out(started):
    session, work, _ = started
    seen(session, DataLoader(Endless()), "kept")
    known = session._registry.all()[0]
    known.latest, known.loader = None, weakref.ref(Odd([1]))
    with pytest.raises(Over):
        session.script_ended(None)
    assert work.alone_with == []
