"""What reading a dataset changes is put back, and what can be read only once is known."""

import contextlib
import io
import itertools
import multiprocessing
import random
import threading
import types
from collections import deque

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset

from plumb.instrument.restore import restored_state, single_pass_part


class Counting:
    """A transform that remembers."""

    def __init__(self):
        self.calls = 0
        self.last = deque(maxlen=2)

    def __call__(self, value):
        self.calls += 1
        self.last.append(value)
        return value


class Restless(Dataset):
    def __init__(self):
        self.epoch, self.handle = 0, None
        self.cache, self.order, self.seen = {"a": 1}, [3, 1, 2], {5}
        self.dice = numpy.random.default_rng(1)
        self.transform = Counting()

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.transform(index)


class Counted(torch.utils.data.Sampler):
    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        self.epoch += 1
        return iter(range(8))


def look(dataset, sampler):
    """All that a test can tell of the state; the collections themselves are the same objects, too."""
    parts = {name: value for name, value in vars(dataset).items() if name not in ("dice", "transform")}
    held = [id(value) for value in (dataset.cache, dataset.order, dataset.seen, dataset.transform, dataset.dice)]
    return (
        repr(parts), held, repr(vars(dataset.transform)), dataset.dice.bit_generator.state, sampler.epoch,
        torch.get_rng_state().tolist(), random.getstate(),
    )  # fmt: skip


CHANGES = {
    "counts": lambda dataset: setattr(dataset, "epoch", dataset.epoch + 1),
    "opens": lambda dataset: setattr(dataset, "handle", io.StringIO()),
    "adds": lambda dataset: setattr(dataset, "new", 1),
    "forgets": lambda dataset: vars(dataset).pop("epoch", None),
    "caches": lambda dataset: dataset.cache.update(a=2, b=3),
    "clears": lambda dataset: dataset.cache.clear(),
    "shuffles": lambda dataset: dataset.order.reverse(),
    "grows": lambda dataset: dataset.order.append(9),
    "collects": lambda dataset: dataset.seen.add(7),
    "replaces": lambda dataset: setattr(dataset, "cache", {}),
    "rolls": lambda dataset: dataset.dice.random(),
    "draws": lambda dataset: (torch.rand(1), random.random()),
    "transforms": lambda dataset: dataset[3],
}


@given(st.lists(st.sampled_from(sorted(set(CHANGES) - {"forgets"})), max_size=8), st.booleans(), st.booleans())
def test_whatever_reading_changes_is_put_back(changes, forgets, fails):
    dataset, sampler = Restless(), Counted()
    dataset[5]
    loader = DataLoader(dataset, batch_size=2, sampler=sampler)
    before = look(dataset, sampler)
    with contextlib.suppress(KeyError), restored_state(loader):
        list(loader)
        for change in [*changes, *(["forgets"] if forgets else [])]:
            CHANGES[change](dataset)
        if fails:
            raise KeyError
    assert look(dataset, sampler) == before


GLOBAL = 0


def closure():
    count = 0

    def more():
        nonlocal count
        count += 1
        return count

    return more


class Elsewhere(Dataset):
    """Changes what is no attribute of its own."""

    total = 0

    def __init__(self, file):
        self.space, self.more, self.thread = types.SimpleNamespace(n=0), closure(), threading.local()
        self.array, self.shared, self.bytes = numpy.zeros(3), multiprocessing.Value("i"), io.BytesIO(b"abcdef")
        self.file, self.nested = file, {"deep": [{"n": 0}]}
        self.thread.n = 0

    def __len__(self):
        return 8

    def __getitem__(self, index):
        global GLOBAL
        GLOBAL += 1
        type(self).total += 1
        self.space.n += 1
        self.thread.n += 1
        self.array[1] += 1
        self.shared.value += 1
        self.nested["deep"][0]["n"] += 1
        return (
            self.more(), ord(self.bytes.read(1) or b"0"), len(self.file.readline()), self.space.n, GLOBAL, self.total,
            self.thread.n, self.array[1].item(), self.shared.value, self.nested["deep"][0]["n"],
        )  # fmt: skip


def test_what_lies_outside_of_a_dataset_s_attributes_is_put_back(tmp_path):
    (tmp_path / "lines").write_text("a\nbb\nccc\ndddd\n")
    with open(tmp_path / "lines") as file:
        dataset = Elsewhere(file)
        loader = DataLoader(dataset, batch_size=2)
        with restored_state(loader) as restoration:
            assert dataset[0] != dataset[1]
            list(loader)
        assert not restoration.not_restored
        assert dataset[0] == (1, 97, 2, 1, 1, 1, 1, 1.0, 1, 1)


def test_a_model_that_the_dataset_knows_stays_as_it_was_trained():
    dataset = Elsewhere(io.BytesIO())
    with restored_state(DataLoader(dataset), only_samples=False) as restoration:
        dataset.array[:] = 7
    assert dataset.array.tolist() == [7, 7, 7]
    assert not restoration.not_restored


class Reading(Dataset):
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return next(self.source)


@pytest.mark.parametrize("make", [itertools.count, lambda: iter(range(99)), lambda: (each for each in range(99))])
def test_an_iterator_that_samples_read_on_in_is_known_and_told(make):
    loader = DataLoader(Reading(make()), batch_size=2)
    assert single_pass_part(loader) == "Reading"
    with restored_state(loader) as restoration:
        list(loader)
    assert restoration.not_restored == "Reading.source"


def test_the_loader_s_own_generator_is_put_back():
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(range(8), shuffle=True, generator=generator)
    before = generator.get_state()
    with restored_state(loader):
        list(loader)
        assert not torch.equal(generator.get_state(), before)
    assert torch.equal(generator.get_state(), before)


class Stream(IterableDataset):
    def __init__(self, **held):
        vars(self).update(held)

    def __iter__(self):
        return iter(range(3))


class Endless(Stream):
    def __next__(self):
        return 1


@pytest.mark.parametrize(
    ("loader", "once"),
    [
        (DataLoader(range(3)), ""),
        (DataLoader(Restless(), shuffle=True, batch_size=2), ""),
        (DataLoader(Stream(files=["a"])), ""),
        (DataLoader(Stream(lines=iter([1]))), "Stream"),
        (DataLoader(Stream(file=io.StringIO())), "Stream"),
        (DataLoader(Endless()), "Endless"),
        (DataLoader(range(3), sampler=iter([0, 1])), "BatchSampler"),
        (DataLoader(range(3), batch_sampler=(each for each in [[0], [1]])), "generator"),
    ],
)
def test_what_can_be_read_only_once_is_known(loader, once):
    assert single_pass_part(loader) == once
