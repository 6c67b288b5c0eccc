"""What is said of trainings that make their batches without a DataLoader."""

import sys
import textwrap

import pytest
import torch

from plumb.core import events
from plumb.instrument.call_site import Site
from plumb.script import hand_made_batches
from plumb.script.session import Session


class Stream:
    def __iter__(self):
        return iter(range(3))


def library(tmp_path, name, code):
    """A module that looks installed."""
    folder = tmp_path / "site-packages"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    return folder


LEARNER = """
    class TfmdDL:
        def __iter__(self):
            return iter(range(3))

    class Learner:
        def __init__(self, step):
            self.dl, self.callbacks, self.step = TfmdDL(), [1], step

        def fit(self):
            for o in enumerate(self.dl):
                for callback in self.callbacks:
                    self.step()
"""
SCRIPTS = {
    "by hand": (
        """
        import functools
        def get_train_batch():
            return 1
        def train():
            for number in range(2):
                x = get_train_batch()
                step()
        """,
        "batches are made by hand in get_train_batch (train.py:3)",
    ),
    "a method": (
        """
        class Replay:
            def sample_batch(self):
                return 1
        def train():
            buffer = Replay()
            while True:
                x = buffer.sample_batch()
                step()
        """,
        "batches are made by hand in sample_batch (train.py:3)",
    ),
    "an object": (
        """
        def train():
            stream = Stream()
            for epoch in range(2):
                for number, x in enumerate(stream):
                    step()
        """,
        "batches come from stream (a Stream of test_hand_made_batches; the loop is at train.py:5)",
    ),
    "a generator": (
        """
        def pairs():
            yield 1
        def train():
            made = pairs()
            for x in made:
                step()
        """,
        "batches come from made (the generator pairs, train.py:2; the loop is at train.py:6)",
    ),
    "a library's loader": (
        """
        from learner import Learner
        def train():
            Learner(step).fit()
        """,
        "batches come from self.dl (a TfmdDL of learner; the loop is at learner.py:11)",
    ),
    "inline": (
        """
        def train():
            for number in range(2):
                x = [1, 2][number]
                step()
        """,
        "its loop (train.py:5) makes its batches itself",
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_how_batches_are_made_is_seen_from_the_loop(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(library(tmp_path, "learner", LEARNER))
    monkeypatch.delitem(sys.modules, "learner", raising=False)
    code, says = SCRIPTS[name]
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(code))
    said = []
    scope = {"__name__": "__main__", "Stream": Stream, "step": lambda: stop(said)}
    exec(compile(script.read_text(), str(script), "exec"), scope)
    with pytest.raises(StopIteration):
        scope["train"]()
    assert said == [f"{says}, and plumb tunes torch's DataLoaders only"]


def stop(said):
    # The frame that calls this lambda's caller is the script's, as the training's own is for a backward pass.
    frame = sys._getframe(2)
    said.append(hand_made_batches.in_loop(frame))
    raise StopIteration


class Over(BaseException):
    pass


@pytest.fixture
def session(monkeypatch):
    """A session that loses patience at once, what it told, and torch's backward pass as it was afterwards."""
    monkeypatch.setattr("plumb.script.session._PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(torch.autograd, "backward", torch.autograd.backward)
    told = []

    def start(**how):
        session = Session(lambda: None, 0.0, told.append, list, **how)
        monkeypatch.setattr(session, "end_script", lambda: (_ for _ in ()).throw(Over()))
        session.listen_for_training()
        return session

    return start, told


# No definition that would be found by its name alone, from another test's loop.
get_batch = lambda weights: (weights * torch.ones(2)).sum()  # noqa: E731


def train(steps):
    weights = torch.ones(2, requires_grad=True)
    for _ in range(steps):
        get_batch(weights).backward()
        torch.autograd.backward([get_batch(weights)])


def test_a_training_without_a_loader_ends_the_tuning_with_how_it_makes_its_batches(session):
    start, told = session
    start()
    with pytest.raises(Over):
        train(100)
    assert [type(event) for event in told] == [events.Failed]
    assert (
        "trains without a DataLoader: batches are made by hand in get_batch (test_hand_made_batches.py:" in told[0].text
    )


def test_a_few_steps_and_steps_of_a_script_with_a_loader_end_nothing(session):
    start, told = session
    one = start()
    train(1)
    one.constructed(torch.utils.data.DataLoader([1]), Site("train.py", 1, "loader"))
    told.clear()
    train(100)
    assert told == []


def test_a_rank_that_takes_part_trains_on(session):
    start, told = session
    start(ends_without_loader=False)
    train(100)
    assert told == []
