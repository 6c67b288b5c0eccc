"""What validation lets pass, and what it refuses, with its reason."""

import time

import cut_datasets
import numpy as np
import pytest
from cut_datasets import (
    Chained,
    Clip,
    Counting,
    Failing,
    Guarded,
    Helped,
    Indexed,
    Inline,
    InPlace,
    Jittered,
    Leaving,
    Measuring,
    OneFile,
    OwnGenerator,
    Scaled,
    Swallowing,
    generated,
    jittered,
)
from cutting import found

from plumb.core.config import CallStep, Cut
from plumb.instrument.rng_state import generator_states
from plumb.rewrites.thread_validation import validate_threads
from plumb.rewrites.validate import validate_cut


def cut_at(dataset, name, site):
    """The cut at a call in `__getitem__` or in what it calls, by the number of its site."""
    kind = type(dataset)
    entry = CallStep("plumb:sample#0", kind.__name__)
    return Cut(name, (entry, CallStep(f"{kind.__module__}:{kind.__qualname__}.__getitem__#{site}", name)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [Inline, Helped, InPlace, Clip, lambda: Chained([Scaled(2.0), Scaled(0.5), Jittered(), Scaled(3.0)])]
)
def test_good_cuts_are_valid_and_may_be_made_by_threads(make):
    dataset = make()
    cuts = [item.cut for item in found(dataset)[0].values()]
    assert cuts
    for cut in cuts[:2]:
        assert validate_cut(dataset, cut, range(12)) is None
        assert validate_threads(dataset, range(12), 4, cut) is None


class Deterministic(Indexed):
    def __getitem__(self, index):
        return np.sort(generated(index)), index


def test_a_deterministic_sample_is_valid_as_a_whole():
    assert validate_cut(Deterministic(), Cut("sample", ()), range(12)) is None
    assert validate_threads(Deterministic(), range(12), 4) is None


def test_a_random_sample_is_not():
    reason = validate_cut(Inline(), Cut("sample", ()), range(12))
    assert reason == "a random generator changes before the end of sample"
    assert "random numbers are drawn" in validate_threads(Inline(), range(12), 4)


def test_what_is_skipped_must_not_leave_anything_behind():
    dataset = Leaving()
    cut = next(item.cut for item in found(dataset)[0].values() if item.cut.way[-1].name == "load")
    assert validate_cut(dataset, cut, range(12)) == f"Leaving.scale changes before the end of {cut.after}"
    assert validate_threads(dataset, range(12), 4, cut) is not None


class Drawing(Indexed):
    """Its loader draws numbers that do not show in what it returns."""

    def load(self, index):
        np.random.random()
        return np.sort(generated(index))

    def __getitem__(self, index):
        return jittered(self.load(index))


class DrawingOwn(Drawing):
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def load(self, index):
        self.rng.random()
        return np.sort(generated(index))

    def __getitem__(self, index):
        return self.load(index) + self.rng.random()


class Remembering(Indexed):
    """Hands out one buffer again and again."""

    def __init__(self):
        self.buffer = np.empty(cut_datasets.VALUES)

    def load(self, index):
        return np.sort(generated(index))

    def __getitem__(self, index):
        self.buffer[:] = self.load(index)
        return self.buffer


class Unlike(Indexed):
    """A value that pickling changes."""

    class Value:
        def __init__(self, content):
            self.content = content

        def __reduce__(self):
            return type(self), (self.content + 1,)

    def load(self, index):
        return Unlike.Value(generated(index))

    def __getitem__(self, index):
        return self.load(index).content


class Open(Indexed):
    """A value that can't be pickled, and could not be stored."""

    def load(self, index):
        return [generated(index), lambda: index]

    def __getitem__(self, index):
        return self.load(index)[0]


@pytest.mark.parametrize(
    ("make", "site", "words"),
    [
        (Drawing, 1, "random generator changes"),
        (DrawingOwn, 1, "random generator changes"),
        (Remembering, 1, "a sample changes when another one is made"),
        (Unlike, 0, "not the same once it was stored"),
        (Open, 1, "load"),
        (Counting, 1, "count changes"),
    ],
)
def test_a_cut_that_would_change_the_data_is_refused(make, site, words):
    dataset = make()
    cut = cut_at(dataset, "load", site)
    reason = validate_cut(dataset, cut, range(12))
    assert reason is not None
    assert words in reason or "can't be compared" in reason


def test_a_needed_value_a_lost_way_and_an_exception_are_reasons():
    measuring = Measuring()
    needed = next(item.cut for item in found(measuring)[0].values() if len(item.cut.feeds) == 3)
    assert "needed behind it" in validate_cut(measuring, needed, range(12))
    assert "0 times" in validate_cut(Inline(), cut_at(Inline(), "nothing", 99), range(12))
    assert validate_cut(Failing(), cut_at(Failing(), "load", 0), range(12)) == "it raised KeyError: 'nothing at 3'"
    caught = next(item.cut for item in found(Swallowing())[0].values() if item.cut.way)
    assert "catches" in validate_cut(Swallowing(), caught, range(12))


def test_a_file_that_threads_share_is_found_out(tmp_path):
    dataset = OneFile(tmp_path / "values")
    cut = next(item.cut for item in found(dataset)[0].values() if item.cut.way)
    assert validate_cut(dataset, cut, range(12)) is None
    for until in (None, cut):
        assert validate_threads(dataset, range(12), 8, until) is not None


class Waiting(Indexed):
    def load(self, index):
        time.sleep(0.005)
        return np.full(10, index)

    def __getitem__(self, index):
        return self.load(index)


class Half(Waiting):
    """Shares a variable between its calls, for as long as it waits."""

    def load(self, index):
        self.index = index
        time.sleep(0.005)
        return np.full(10, self.index)


def test_waiting_samples_are_read_by_threads_unless_they_share_a_variable():
    assert validate_threads(Waiting(), range(12), 6) is None
    assert validate_threads(Half(), range(12), 6) is not None


def test_a_dataset_that_changes_itself_is_not_read_by_threads():
    assert validate_threads(Guarded(), range(12), 4) == "Guarded.log changes while a sample is made"


def test_generators_are_put_back():
    dataset = OwnGenerator()
    cut = next(item.cut for item in found(dataset)[0].values())
    before = generator_states([dataset.rng])
    assert validate_cut(dataset, cut, range(12)) is None
    assert validate_threads(dataset, range(12), 3, cut) is None
    assert generator_states([dataset.rng]) == before
