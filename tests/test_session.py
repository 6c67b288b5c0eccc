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


def in_the_loop(session, loader, name, steps, take):
    """A loop that trains on what `take` gets of the loader, step by step."""
    session.constructed(loader, Site("train.py", 1, name))
    start = lambda: iter([torch.zeros(2)] * 3)  # noqa: E731
    for _ in range(steps):
        take(lambda: session.iterating(loader, start, plain_loop=False))
        session._signals.count += 1


def test_a_loop_that_begins_an_iterator_for_each_batch_is_told_what_to_write(started, monkeypatch):
    monkeypatch.setattr("plumb.session._PATIENCE_SECONDS", 0.0)
    session, _, told = started
    session._budget_seconds = 0.0
    with pytest.raises(Over):
        in_the_loop(session, DataLoader([1, 2, 3]), "loader", 50, lambda begin: next(begin()))
    assert [event.text for event in told if isinstance(event, events.Failed)] == [
        "loader (train.py:1) was not tuned: the loop takes each batch by next(iter(loader)), which begins an epoch "
        "anew for every step, so nothing can be read ahead. Keep one iterator, begun again when it ends, or write: "
        "for batch in loader. Nothing was written"
    ]


def test_a_picture_of_a_first_batch_now_and_then_is_no_such_loop(started, monkeypatch):
    monkeypatch.setattr("plumb.session._PATIENCE_SECONDS", 0.0)
    session, _, told = started
    loader = DataLoader([1, 2, 3])

    def seldom(begin):
        next(begin())
        for _ in session.iterating(loader, lambda: iter([1, 2]), plain_loop=True):
            pass

    in_the_loop(session, loader, "loader", 20, seldom)
    assert not any(isinstance(event, events.Failed) for event in told)


def test_what_the_loader_raises_reaches_the_loop(started):
    session, _, told = started
    session.constructed(loader := DataLoader([1]), Site("train.py", 1, "loader"))
    # A lookup that fails leaves no call of its own in the traceback.
    batches = session.iterating(loader, lambda: map({}.__getitem__, [1]), plain_loop=True)
    with pytest.raises(KeyError):
        next(batches)
    assert not any(isinstance(event, events.Failed) for event in told)


def test_loaders_are_looked_at_where_the_loop_has_spent_the_budget(started):
    session, work, told = started
    for name in ("train", "valid"):
        seen(session, DataLoader([1, 2, 3]), name)
    # Twelve seconds were the budget, and they are over.
    session._budget_seconds, session._deadline = 12.0, 0.0
    with pytest.raises(Over):
        session._tune_alone(session._registry.all())
    assert work.alone_with == ["train", "valid"]
    assert not any(isinstance(event, events.Warned) for event in told)
