"""One session over a script's loaders, in this process, with a stand-in for the tuning itself."""

import os
import shutil
import sys
import tempfile
import weakref
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from plumb.core import events
from plumb.core.errors import UsersError
from plumb.instrument.call_site import Site
from plumb.script import removed_data
from plumb.script.session import Session
from plumb.tuning.measure.training_loop import ErrorForLoop


class Over(BaseException):
    """Stands for the end of the script's process."""


class Noted:
    """Work that only notes which loaders it was given."""

    only_one = False

    def __init__(self):
        self.alone_with = []

    def run_alone(self, known, loader, seconds):
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


def test_what_the_work_imports_is_no_part_of_the_budget(started, monkeypatch):
    session, work, _ = started
    now = [0.0]
    monkeypatch.setattr("plumb.script.session.time.perf_counter", lambda: now[0])

    def make_work():
        now[0] += 60.0
        return work

    session._make_work = make_work
    seen(session, DataLoader([1, 2, 3]), "valid")
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
    monkeypatch.setattr("plumb.script.session._PATIENCE_SECONDS", 0.0)
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
    monkeypatch.setattr("plumb.script.session._PATIENCE_SECONDS", 0.0)
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


def test_a_budget_that_is_spent_before_any_loader_was_tuned_is_what_the_user_is_told(started):
    session, work, told = started
    seen(session, DataLoader([1, 2, 3]), "train")
    session._budget_seconds, session._deadline = 2.0, 0.0
    with pytest.raises(Over):
        session._tune_alone(session._registry.all())
    assert work.alone_with == []
    [failed] = [event for event in told if isinstance(event, events.Failed)]
    assert "the budget was spent" in failed.text
    assert "--budget" in failed.text


class Failing:
    """Batches of which every second one raises, by turns of two kinds; each is made once."""

    def __init__(self):
        self.made = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.made += 1
        if self.made % 2 == 0:
            raise (KeyError, ValueError)[self.made // 2 % 2](self.made)
        return self.made


def test_errors_of_samples_reach_a_loop_that_goes_on_after_them_and_the_tuning_goes_on_too(started):
    session, work, told = started
    taken_over = []

    def run_in_loop(known, loader, loop, own, deadline):
        taken_over.append(loop)
        for _ in range(4):
            yield (yield from loop.next_of(own))
        return events.Phase("done")

    work.run_in_loop = run_in_loop
    session.constructed(loader := DataLoader([1, 2, 3]), Site("train.py", 1, "loader"))
    batches = session.iterating(loader, Failing, plain_loop=True)
    got = []

    def loop():
        while True:
            try:
                got.append(next(batches))
            except (KeyError, ValueError) as error:
                got.append(error.args[0])
            session._signals.count += 1

    with pytest.raises(Over):
        loop()
    assert got == list(range(1, len(got) + 1)), "what comes is what would come without a tuning"
    assert len(taken_over) == 1, "it is taken over once"
    assert set(taken_over[0].skips) == {KeyError, ValueError}
    (known,) = session._registry.all()
    assert set(known.skips) == {KeyError, ValueError}, "they are skipped, too, where it is tuned without its loop"
    assert told[-1] == events.Phase("done")


def test_an_error_of_a_sample_that_the_script_dies_of_is_the_script_s_own(started):
    session, work, _ = started

    def run_in_loop(known, loader, loop, own, deadline):
        raise UsersError(ValueError("bad"))
        yield

    for way in (run_in_loop, lambda *_: iter([ErrorForLoop(ValueError("bad"))])):
        work.run_in_loop = way
        session._users_error = session._running = session._coroutine = None
        session.constructed(loader := DataLoader([1, 2, 3]), Site("train.py", 1, "loader"))
        batches = session.iterating(loader, lambda: iter([1, 2]), plain_loop=True)
        next(batches)
        session._signals.count += 1
        with pytest.raises(ValueError, match="bad") as raised:
            next(batches)
        exit_of_main = SystemExit(1)
        exit_of_main.__context__ = raised.value
        for error in (raised.value, exit_of_main):
            session.script_ended(error)
    assert work.alone_with == []


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (DataLoader([], batch_size=4), "its dataset is empty"),
        (
            DataLoader([1, 2, 3], batch_size=4, drop_last=True),
            "its dataset has 3 samples, fewer than batch_size=4, and drop_last=True drops an incomplete batch",
        ),
        (DataLoader([1, 2, 3], batch_sampler=[]), "its batch sampler is empty"),
    ],
    ids=["empty", "dropped", "sampler"],
)
def test_why_a_loader_has_no_batches_is_said_once_and_not_in_each_epoch(loader, why, started):
    session, _, told = started
    session.constructed(loader, Site("train.py", 1, "train"))
    session.constructed(DataLoader([], batch_size=2), Site("train.py", 2, "valid"))
    for _ in range(3):
        assert list(session.iterating(loader, lambda: iter(()), plain_loop=True)) == []
    assert [event.text for event in told if isinstance(event, events.Warned)] == [
        f"train (train.py:1) has no batches: {why}"
    ]


class Files:
    """Rows that are read from files in a folder."""

    def __init__(self, folder):
        self.paths = [Path(folder, str(number)) for number in range(4)]
        for path in self.paths:
            path.write_text("1")

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return int(self.paths[index].read_text())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("removal", ["a folder", "its parent", "a temporary folder"])
def test_a_loader_is_tuned_before_the_script_removes_its_data(removal, workers, started, monkeypatch, tmp_path):
    session, work, _ = started
    hooks = []
    with monkeypatch.context() as patched:
        patched.setattr("sys.addaudithook", hooks.append)
        removed_data.listen(session.data_goes)
    # A hook can't be removed again: what it calls is to be gone with the test.
    sys.addaudithook(lambda event, arguments: [hook(event, arguments) for hook in hooks])
    there = []

    def run_alone(known, loader, seconds):
        there.append([row for batch in DataLoader(loader.dataset) for row in batch.tolist()])
        return events.Phase(known.name)

    work.run_alone = run_alone
    temporary = tempfile.TemporaryDirectory(dir=tmp_path) if removal == "a temporary folder" else None
    folder = temporary.name if temporary else str(tmp_path / "parent" / "data")
    os.makedirs(folder, exist_ok=True)
    other = tmp_path / "other"
    other.mkdir()
    loader, elsewhere = DataLoader(Files(folder), num_workers=workers), DataLoader(Files(other))
    for name, each in (("loader", loader), ("elsewhere", elsewhere)):
        session.constructed(each, Site("train.py", 1, name))
        for _ in session.iterating(each, lambda each=each: iter(DataLoader.__iter__(each)), plain_loop=True):
            pass
    assert there == []
    if temporary:
        temporary.cleanup()
    else:
        shutil.rmtree(folder if removal == "a folder" else os.path.dirname(folder))
    hooks.clear()
    assert there == [[1, 1, 1, 1]], "while they were there"
    assert not os.path.exists(folder)
    work.run_alone = Noted.run_alone.__get__(work)
    for _ in range(2):
        # Nothing of the script's runs any more after its main module, its handlers for the exit included.
        with pytest.raises(Over):
            session.script_ended(None)
        assert work.alone_with == ["elsewhere"]
