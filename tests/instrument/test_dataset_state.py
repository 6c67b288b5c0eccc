"""Changes in what samples read are found, wherever it hangs and however it is changed; other changes are not."""

import array
import collections
import ctypes
import dataclasses
import functools
import gc
import mmap
import multiprocessing
import os
import pickle
import queue
import types
from typing import NamedTuple

import numpy as np
import pandas
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from plumb.instrument.byte_windows import item_windows
from plumb.instrument.dataset_state import DatasetState
from plumb.instrument.object_parts import roots_of

Compose = pytest.importorskip("torchvision.transforms").Compose

THRESHOLD = 0
TABLE = {"scale": 1.0}


class Settings:
    level = 0


@functools.lru_cache
def table():
    return {"offset": 0}


def level():
    return Settings.level + level.extra


level.extra = 0


class Scale:
    """A transform with an attribute of its class and one of its own."""

    kind = "plain"

    def __init__(self):
        self.factor = 1.0

    def __call__(self, x):
        return x * self.factor if self.kind == "plain" else x


class Slotted:
    __slots__ = ("size",)

    def __init__(self):
        self.size = 1


class Pair(NamedTuple):
    values: np.ndarray
    names: list


@dataclasses.dataclass
class Options:
    depth: int = 1
    inner: dict = dataclasses.field(default_factory=dict)


def scaled(x, options):
    return x + options["by"]


def closing_over(state):
    def made(x):
        return x + state["phase"]

    return made


class Rows(Dataset):
    """Holds all sorts of things that its samples read, and one that they don't."""

    phase = 0

    def __init__(self):
        self.labels = [0] * 300
        self.weights = np.zeros(300)
        self.large = np.zeros(300_000)
        self.columns = np.zeros((200, 50), order="C")[:, ::2]
        self.tensor = torch.zeros(5)
        self.half = torch.zeros(5, dtype=torch.bfloat16)
        self.buffers = {"bytes": bytearray(8), "array": array.array("d", [0.0] * 4), "c": ctypes.c_int(0)}
        self.value = multiprocessing.Value("i", 0)
        self.transform = Compose([Scale(), Compose([Scale()])])
        self.steps = collections.deque([Scale()])
        self.slotted = Slotted()
        self.pair = Pair(np.zeros(3), ["a"])
        self.options = Options()
        self.namespace = types.SimpleNamespace(size=1)
        self.partial = functools.partial(scaled, options={"by": 1})
        self.closure = closing_over({"phase": 0})
        self.seen = {1, 2}
        self.frame = pandas.DataFrame({"x": np.zeros(20), "y": np.zeros(20)})
        self.waiting = queue.Queue()
        self.module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        self.index = {place: place for place in range(5000)}
        self.files = [(f"{place}.jpg", place % 7) for place in range(5000)]
        self.log = []

    def __len__(self):
        return 300

    def __getitem__(self, index):
        x = self.labels[index] + self.weights[index] + self.large[index] + self.columns[index].sum() + self.index[index]
        x = self.transform(x) + self.tensor.sum() + self.half.sum() + self.buffers["bytes"][0] + self.value.value
        x = self.closure(self.partial(x)) + len(self.files[index]) + self.slotted.size + self.pair.values.sum()
        x = x + self.options.depth + self.options.inner.get(1, 0) + self.namespace.size + len(self.seen) + self.phase
        x = x + self.frame.x[0] + self.waiting.qsize() + THRESHOLD + level() + TABLE["scale"] + table()["offset"]
        return x if self.module.training and os.environ.get("MODE") is None else self.steps[0](x)

    def summary(self):
        return len(self.log)


class Collate:
    def __init__(self):
        self.size = 0

    def __call__(self, samples):
        return samples, self.size


def set_global(name, value):
    globals()[name] = value


CHANGES = {
    "an item of a list": lambda rows, _: rows.labels.__setitem__(7, 1),
    "an item of an array": lambda rows, _: rows.weights.__setitem__(7, 1),
    "all of a large array": lambda rows, _: rows.large.fill(1),
    "an item of a view with steps": lambda rows, _: rows.columns.__setitem__((7, 3), 1),
    "a tensor in place": lambda rows, _: rows.tensor.add_(1),
    "a tensor behind its version": lambda rows, _: rows.tensor.data.fill_(1),
    "a tensor through numpy": lambda rows, _: rows.tensor.numpy().__setitem__(0, 1),
    "a tensor of bfloat16": lambda rows, _: rows.half.data.fill_(1),
    "a bytearray": lambda rows, _: rows.buffers["bytes"].__setitem__(0, 1),
    "an array of Python's": lambda rows, _: rows.buffers["array"].__setitem__(0, 1.0),
    "a number of C's": lambda rows, _: setattr(rows.buffers["c"], "value", 1),
    "a value in shared memory": lambda rows, _: setattr(rows.value, "value", 1),
    "an attribute of a transform": lambda rows, _: setattr(rows.transform.transforms[0], "factor", 2.0),
    "an attribute two Composes deep": lambda rows, _: setattr(
        rows.transform.transforms[1].transforms[0], "factor", 2.0
    ),
    "an attribute of a transform's class": lambda rows, patch: patch.setattr(Scale, "kind", "other"),
    "an attribute in a deque": lambda rows, _: setattr(rows.steps[0], "factor", 2.0),
    "a slot": lambda rows, _: setattr(rows.slotted, "size", 2),
    "an array in a named tuple": lambda rows, _: rows.pair.values.fill(1),
    "a field of a dataclass": lambda rows, _: setattr(rows.options, "depth", 2),
    "a dictionary in a dataclass": lambda rows, _: rows.options.inner.update({1: 2}),
    "a namespace": lambda rows, _: setattr(rows.namespace, "size", 2),
    "an argument of a partial": lambda rows, _: rows.partial.keywords["options"].update(by=2),
    "a variable of a closure": lambda rows, _: rows.closure.__closure__[0].cell_contents.update(phase=1),
    "a set": lambda rows, _: rows.seen.add(3),
    "a table": lambda rows, _: rows.frame.iloc.__setitem__((slice(None), 0), 1.0),
    "a queue": lambda rows, _: rows.waiting.put(1),
    "a module's mode": lambda rows, _: rows.module.eval(),
    "a module's weights": lambda rows, _: torch.nn.init.ones_(rows.module[0].weight),
    "a module's statistics": lambda rows, _: rows.module[1](torch.rand(4, 2)),
    "one entry of a large dictionary": lambda rows, _: rows.index.__setitem__(3000, -1),
    "one tuple of a long list": lambda rows, _: rows.files.__setitem__(3000, ("3000.jpg", 9)),
    "an attribute of the class": lambda rows, patch: patch.setattr(Rows, "phase", 1),
    "an attribute that hides the class's": lambda rows, _: setattr(rows, "phase", 1),
    "another list": lambda rows, _: setattr(rows, "labels", [1] * 300),
    "a global number": lambda rows, patch: patch.setitem(globals(), "THRESHOLD", 1),
    "a global dictionary": lambda rows, patch: patch.setitem(TABLE, "scale", 2.0),
    "a class that is named": lambda rows, patch: patch.setattr(Settings, "level", 1),
    "an attribute of a function": lambda rows, patch: patch.setattr(level, "extra", 1),
    "what a cache of a function has": lambda rows, patch: patch.setitem(table(), "offset", 1),
    "an environment variable": lambda rows, patch: patch.setenv("MODE", "fast"),
}


@pytest.fixture
def loader():
    table()
    every = ConcatDataset([Subset(Rows(), range(300)), Rows()])
    return DataLoader(Subset(every, list(range(100))), collate_fn=Collate(), batch_size=4)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_found_at_an_epochs_start_and_only_once(loader, change, monkeypatch):
    state = DatasetState(roots_of(loader))
    state.look(5.0)
    assert state.look(5.0) == state.glance() == ()
    change(loader.dataset.dataset.datasets[0].dataset, monkeypatch)
    assert state.look(5.0)
    assert state.look(5.0) == ()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_found_between_batches(change, monkeypatch):
    table()
    rows = Rows()
    state = DatasetState([rows])
    state.look(5.0)
    change(rows, monkeypatch)
    assert any(state.glance() for _ in range(10))


def test_the_place_is_named_for_people(loader, monkeypatch):
    state = DatasetState(roots_of(loader))
    state.look(5.0)
    rows = loader.dataset.dataset.datasets[0].dataset
    rows.transform.transforms[0].factor = 3.0
    assert [change.place for change in state.look(5.0)] == ["Scale.factor"]
    rows.labels[3] = 3
    assert [change.place for change in state.look(5.0)] == ["Rows.labels"]
    loader.collate_fn.size = 3
    assert [change.place for change in state.look(5.0)] == ["Collate.size"]
    monkeypatch.setitem(globals(), "THRESHOLD", 3)
    assert [change.place for change in state.look(5.0)] == ["the global THRESHOLD"]


def test_what_no_sample_reads_is_not_watched(loader):
    state = DatasetState(roots_of(loader))
    state.look(5.0)
    for part in loader.dataset.dataset.datasets:
        rows = getattr(part, "dataset", part)
        rows.log.append(1)
        rows.notes = "of the loop's own"
        rows.transform.transforms[0].calls = 3
    assert state.look(5.0) == state.glance() == ()


def test_what_changes_along_with_what_is_found_is_no_later_change():
    rows = Rows()
    rows.large = np.zeros(100_000)
    state = DatasetState([rows])
    state.look(5.0)
    rows.large.fill(1)
    assert state.look(0.0)
    windows = rows.large.nbytes // (1 << 14) + 1
    assert not any(state.glance() for _ in range(windows))


def test_what_python_keeps_on_a_class_is_no_change():
    pair = Settings()
    state = DatasetState([pair])
    state.look(5.0)
    pickle.dumps(pair)
    assert "__slotnames__" in vars(Settings)
    assert state.look(5.0) == ()


def test_shared_memory_is_left_out_where_workers_write_to_it():
    class Shared(Dataset):
        def __init__(self):
            self.reads, self.value = torch.zeros(4).share_memory_(), multiprocessing.Value("i", 0)

        def __getitem__(self, index):
            return self.reads, self.value

    rows = Shared()
    watching, skipping = DatasetState([rows]), DatasetState([rows], skips_shared=True)
    for change in (lambda: rows.reads.add_(1), lambda: setattr(rows.value, "value", 1)):
        watching.look()
        skipping.look()
        change()
        assert len(watching.look()) == 1
        assert skipping.look() == ()


class Trainer(torch.nn.Module):
    """Has the model, and the functions for its own loader."""

    def __init__(self):
        super().__init__()
        self.layer, self.embedding = torch.nn.Linear(2, 2), torch.nn.Embedding(4, 2)
        self.step, self.longest = 0, 8

    def collate(self, samples):
        return samples[: self.longest], getattr(self, "padding", 0)

    def embed(self, samples):
        return self.embedding(torch.tensor(samples))


def test_a_method_reads_of_its_object_what_its_code_names():
    trainer = Trainer()
    state = DatasetState([trainer.collate])
    state.look()
    trainer.step += 1
    torch.nn.init.ones_(trainer.layer.weight)
    assert state.look() == state.glance() == ()
    trainer.longest = 4
    assert [change.place for change in state.look()] == ["Trainer.longest"]
    trainer.padding = 4
    assert [change.place for change in state.look()] == ["Trainer.padding"]
    state = DatasetState([trainer.embed])
    state.look()
    torch.nn.init.ones_(trainer.embedding.weight)
    assert state.look()


def test_a_name_that_is_computed_may_be_any():
    class Rows(Dataset):
        def __init__(self):
            self.first, self.second = 0, 0

        def __getitem__(self, index):
            return getattr(self, ("first", "second")[index])

    rows = Rows()
    state = DatasetState([rows])
    state.look()
    rows.second = 1
    assert [change.place for change in state.look()] == ["Rows.second"]


def test_a_byte_of_a_large_array_is_found_in_the_end(monkeypatch):
    rows = Rows()
    state = DatasetState([rows])
    state.look(5.0)
    rows.large.view(np.uint8)[1_234_567] = 1
    windows = rows.large.nbytes // (1 << 14) + 1
    assert sum(bool(state.glance()) for _ in range(windows)) == 1


def test_samples_that_are_remembered_are_told_from_other_changes():
    class Remembering(Dataset):
        def __init__(self):
            self.by_index, self.in_list, self.counts = {}, [None] * 40, collections.Counter()

        def __getitem__(self, index):
            return self.by_index, self.in_list, self.counts

    rows = Remembering()
    state = DatasetState([rows])
    state.look()
    rows.by_index[3] = "three"
    rows.in_list[3] = "three"
    assert [change.is_growth for change in state.look()] == [True, True]
    rows.by_index[3] = "four"
    assert [change.is_growth for change in state.look()] == [False]
    rows.in_list[3] = "four"
    assert [change.is_growth for change in state.look()] == [False]
    rows.counts[3] += 1
    assert [change.is_growth for change in state.look()] == [False]


def test_generators_of_the_dataset_are_found_and_those_of_the_process_are_not():
    class Noise:
        def __init__(self):
            self.generators = [np.random.default_rng(0)]
            self.draw = np.random.rand

        def __call__(self):
            return self.draw() + self.generators[0].random()

    noise = Noise()
    state = DatasetState([noise])
    state.look()
    assert state.generators == noise.generators


class Small:
    def __init__(self, number):
        self.number = number


def test_a_million_small_objects_are_looked_at_bit_by_bit():
    class Many(Dataset):
        def __init__(self):
            self.items = [Small(number) for number in range(100_000)]

        def __getitem__(self, index):
            return self.items[index].number

    many = Many()
    state = DatasetState([many])
    # There is no time for all of them in a look, nor in the next: a few are looked at each time.
    assert state.look(0.01) == state.look(0.01) == ()
    for item in many.items:
        item.number += 1
    assert state.glance()


@pytest.mark.parametrize("kind", [list, tuple, "objects", "array"])
def test_what_lies_at_a_given_place_of_a_large_value_is_looked_at_whatever_the_time(kind):
    class Large(Dataset):
        def __init__(self):
            numbers = range(1_000_000, 1_060_000)
            self.items = kind(numbers) if callable(kind) else None
            if kind == "objects":
                self.items = [Small(number) for number in numbers]
            elif kind == "array":
                self.items = np.arange(60_000)

        def __getitem__(self, index):
            return self.items[index].number

    rows = Large()
    state = DatasetState([rows], by_value=True)
    look = functools.partial(state.look, 1.0, window_seconds=0.0, near=(0.1, 0.5001))
    look()
    assert look() == ()
    place = 30_006
    if kind == "objects":
        rows.items[place].number = -1
    elif kind is tuple:
        rows.items = (*rows.items[:place], -1, *rows.items[place + 1 :])
    else:
        rows.items[place] = -1
    assert [change.place for change in look()] == ["Large.items"]


@pytest.mark.parametrize("kind", [dict, set, collections.deque, list])
def test_windows_that_follow_each_other_are_those_that_are_looked_at_alone(kind):
    numbers = range(20_000)
    value = {number: str(number) for number in numbers} if kind is dict else kind(numbers)
    in_turn, count, _ = item_windows(value)
    digests = [in_turn(number) for number in range(count)]
    assert count > 1
    assert [item_windows(value)[0](number) for number in range(count)] == digests
    assert len(set(digests)) == count


def test_windows_hold_few_items_where_these_are_large():
    sizes = [
        item_windows([[0] * 30] * 10_000)[1],
        item_windows([0] * 10_000)[1],
        item_windows([[[0] * 30] * 30] * 99)[1],
    ]
    assert sizes == [37, 3, 11]


def test_a_look_sets_off_no_search_for_garbage():
    rows, found = Rows(), []
    rows.items = [[[number] for number in range(60)] for _ in range(60)]
    state = DatasetState([rows])
    gc.callbacks.append(lambda phase, info: found.append(info["generation"]))
    before = gc.get_threshold()
    try:
        gc.set_threshold(10, 1, 1)
        found.clear()
        state.look()
        state.glance()
        assert len(found) < 10
        assert gc.isenabled()
        gc.disable()
        state.glance()
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.set_threshold(*before)
        gc.callbacks.pop()


def test_nothing_is_kept_alive_between_looks():
    class Arrays(Dataset):
        def __init__(self):
            self.array = np.zeros(10_000)
            self.parts = [Scale()]

        def __getitem__(self, index):
            return self.array[index], self.parts

    import weakref

    rows = Arrays()
    state = DatasetState([rows])
    state.look()
    state.glance()
    kept = [weakref.ref(rows.array), weakref.ref(rows.parts[0])]
    rows.array, rows.parts = np.zeros(10), []
    assert [each() for each in kept] == [None, None]


@pytest.mark.parametrize("count", [100, 5000])
@pytest.mark.parametrize("is_numpys", [True, False])
def test_what_the_script_writes_through_another_map_of_a_file_is_seen(count, is_numpys, tmp_path):
    np.zeros(count, np.int64).tofile(tmp_path / "labels")
    written = np.memmap(tmp_path / "labels", np.int64, "r+")
    with open(tmp_path / "labels", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    read = np.memmap(tmp_path / "labels", np.int64, "r") if is_numpys else mapped
    state = DatasetState([[read]])
    state.look()
    assert state.look() == ()
    written[:] = 1
    assert state.look()
    mapped.close()
