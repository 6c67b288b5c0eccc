"""Equal runs agree on a fingerprint; whatever decides on values changes it."""

import dataclasses
import json
import os
import subprocess
import sys
import types

import numpy
import pytest
import torch

from plumb.core.config import CacheChoice, CallStep, Config, Cut, Rewrites
from plumb.instrument import content_digest
from plumb.runtime.iterator_setup import IteratorSetup
from plumb.runtime.store.dataset_store import DatasetStore
from plumb.runtime.store.fingerprint import fingerprint, fingerprint_of_part

CUT = Cut("load", (CallStep("D.__getitem__#1", "load"),))

SCRIPT = """
import functools, pathlib, sys, threading
import numpy, torch
from PIL import Image
from torch.utils.data import Dataset, Subset, ConcatDataset
from plumb.core.config import CallStep, Cut
from plumb.runtime.store.fingerprint import fingerprint

SCALE = 2.0

def helper(x):
    return x * SCALE

def load(x):
    return helper(x)

class Transform:
    limits = (0, 1)

    def __init__(self, size):
        self.size, self.lock = size, threading.Lock()

    def __call__(self, x):
        return load(x)[: self.size]

class D(Dataset):
    def __init__(self):
        self.files = [(f"img_{i}.jpg", i % 3) for i in range(100)]
        self.paths = [pathlib.Path("a") / str(i) for i in range(3)]
        self.names = {"cat", "dog", "bird", "fish", "horse"}
        self.pairs = frozenset([("a", 1), ("b", 2), ("c", 3)])
        self.by_name = {name: index for index, name in enumerate(sorted(self.names))}
        self.table, self.weights = numpy.arange(6.0).reshape(2, 3), torch.ones(3)
        self.records = numpy.array([{"a": 1}, None], dtype=object)
        self.image = Image.new("RGB", (4, 4))
        self.transform, self.flip = Transform(3), lambda x: x[::-1]
        self.twice = functools.partial(load, x=1)
        self.mine, self.itself = self.other, self

    def other(self, x):
        return x

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.transform(self.files[index])

cut = Cut("load", (CallStep("D.__getitem__#1", "load"),))
dataset = ConcatDataset([Subset(D(), [1, 2]), D()])
print(fingerprint(dataset, cut, [D.__getitem__, load]))
"""


def run(path, seed):
    environment = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, env=environment, check=True)
    return done.stdout


@pytest.mark.slow
def test_two_runs_agree(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    assert run(path, "1") == run(path, "2")


CHANGES = {
    "a transform's parameter": ("Transform(3)", "Transform(4)"),
    "a transform's body": ("load(x)[: self.size]", "load(x)[1 : self.size]"),
    "a function that is called by another": ("x * SCALE", "x + SCALE"),
    "a value of the module": ("SCALE = 2.0", "SCALE = 3.0"),
    "a value of a class": ("limits = (0, 1)", "limits = (0, 2)"),
    "the list of files": ("range(100)", "range(99)"),
    "a lambda": ("x[::-1]", "x[::-2]"),
    "a set": ('"horse"', '"house"'),
    "an array": ("arange(6.0)", "arange(1.0, 7.0)"),
    "an array's type": ("arange(6.0)", "arange(6)"),
    "an array's shape": ("reshape(2, 3)", "reshape(3, 2)"),
    "an array of objects": ('{"a": 1}, None', '{"a": 2}, None'),
    "a tensor": ("torch.ones(3)", "torch.zeros(3)"),
    "an image": ('"RGB", (4, 4)', '"RGB", (4, 4), "red"'),
    "an argument of a partial": ("load, x=1", "load, x=2"),
    "the samples of a subset": ("[1, 2]", "[2, 1]"),
    "the cut": ('"D.__getitem__#1", "load"', '"D.__getitem__#2", "load"'),
    "the number format": ("cut = Cut(", "torch.set_default_dtype(torch.float64)\ncut = Cut("),
    "the library": ("cut = Cut(", 'numpy.__version__ = "0"\ncut = Cut('),
}


SAME = {
    "nothing": ("", ""),
    "a remark": ("SCALE =", "\n\n# a remark\nSCALE ="),
    "a line": ("    def other", "\n\n    def other"),
}

RUN_ALL = """
import json, runpy, sys, numpy, torch
version = numpy.__version__
for path in json.loads(sys.argv[1]):
    runpy.run_path(path, run_name="__main__")
    numpy.__version__ = version
    torch.set_default_dtype(torch.float32)
"""


@pytest.mark.slow
def test_every_change_is_seen_and_nothing_else(tmp_path):
    paths = {}
    for name, (old, new) in (SAME | CHANGES).items():
        assert old in SCRIPT
        paths[name] = tmp_path / f"{name}.py"
        paths[name].write_text(SCRIPT.replace(old, new, 1))
    words = [sys.executable, "-c", RUN_ALL, json.dumps(list(map(str, paths.values())))]
    done = subprocess.run(words, capture_output=True, text=True)
    found = dict(zip(paths, done.stdout.split(), strict=True))
    assert len({found[name] for name in SAME}) == 1, found
    assert len(set(found.values())) == 1 + len(CHANGES), found


class Plain:
    """A dataset whose state is what a test makes it."""

    def __init__(self, state):
        self.state = state

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.state


def of(state):
    return fingerprint(Plain(state), CUT, [Plain.__getitem__])


def test_equal_objects_count_alike_whether_they_are_the_same_or_not():
    text = "".join(["n", "ame"])
    assert of([text, text]) == of([text, "".join(["na", "me"])])
    assert of([1, 2]) != of((1, 2))
    assert of([[1], [2]]) != of([[1, 2]])
    assert of({"a": 1, "b": 2}) != of({"b": 2, "a": 1})


def test_what_can_not_be_told_is_never_taken_for_something_else():
    assert of(index for index in range(3)) != of(index for index in range(3))
    cyclic = []
    cyclic.append(cyclic)
    assert of(cyclic) != of(cyclic)


def test_an_open_file_is_told_by_what_is_on_the_disk(tmp_path):
    path = tmp_path / "data.bin"
    numpy.arange(10, dtype="u1").tofile(path)
    with open(path, "rb") as file:
        mapped = numpy.memmap(path, "u1", "r")
        before = of(file), of(mapped)
        assert before == (of(file), of(mapped))
        os.utime(path, ns=(0, 0))
        assert before[0] != of(file)
        assert before[1] != of(mapped)


def test_looking_does_not_change_the_dataset(tmp_path):
    from PIL import Image

    Image.new("RGB", (3, 3)).save(tmp_path / "a.png")
    image, tensor = Image.open(tmp_path / "a.png"), torch.ones(3)
    assert of([image, tensor]) == of([image, tensor])
    assert image.tile


ROWS = 200_000
LARGE = {
    "a list": lambda last: [{"id": number, "name": f"image {number}"} for number in range(ROWS - 1)] + [last],
    "a dictionary": lambda last: {**{f"{number}": (number,) for number in range(ROWS)}, "0": last},
    "lists in lists": lambda last: [last] + [[Plain(number)] * 300 for number in range(1000)],
    "outlines of a few pictures": lambda last: [{"of": last}] + [{"of": [[[1.0, 2.0]] * 24] * 9} for _ in range(400)],
    "a set": lambda last: {*range(ROWS), last},
    "an array": lambda last: numpy.append(numpy.zeros(2**21), len(last)),
    "a text": lambda last: "x" * 2**23 + last,
}


@pytest.mark.parametrize("kind", LARGE)
def test_of_large_data_a_part_is_looked_at_in_bounded_time(kind, monkeypatch):
    looked_at = []
    persistent_id = content_digest._DigestPickler.persistent_id
    monkeypatch.setattr(
        content_digest._DigestPickler,
        "persistent_id",
        lambda self, value: looked_at.append(1) or persistent_id(self, value),
    )
    make = LARGE[kind]
    one, other = Plain(make("1")), Plain(make("other"))
    found, is_partial = fingerprint_of_part(one, CUT)
    assert is_partial
    assert len(looked_at) < 3 * content_digest._MOST_OBJECTS
    assert fingerprint_of_part(one, CUT) == (found, True)
    assert fingerprint_of_part(other, CUT) != (found, True)


FLAT = {
    "numbers": lambda: list(range(100_000)),
    "texts": lambda: [f"image {number}.jpg" for number in range(100_000)],
    "pairs": lambda: [(f"image {number}.jpg", number % 10) for number in range(100_000)],
    "by name": lambda: {f"image {number}.jpg": number for number in range(100_000)},
}


@pytest.mark.parametrize("kind", FLAT)
def test_of_plain_values_all_are_looked_at(kind):
    dataset = Plain(FLAT[kind]())
    before = fingerprint_of_part(dataset, CUT)
    assert before == (fingerprint(dataset, CUT, ()), False)
    dataset.state["image 77777.jpg" if kind == "by name" else 77_777] = ("", 0) if kind == "pairs" else 3
    assert fingerprint_of_part(dataset, CUT) != before


def test_a_store_is_left_where_a_dataset_changes_that_is_looked_at_in_part():
    large, choice = Plain([{"row": row} for row in range(5000)]), CacheChoice("load", "memory", 2**20, 1.0)
    running = IteratorSetup(Config(cache=choice), Rewrites((CUT,)))
    running._renew_store(large)
    first = running.stored
    large.state[1]["row"] = 77
    assert first.is_of(large), "the row is not among those that are looked at"
    running.note_change(large)
    running._renew_store(large)
    assert running.stored.fingerprint != first.fingerprint


def test_a_store_that_shows_a_change_is_kept_until_it_is_renewed_and_another_one_is_left():
    small, choice = Plain([1, 2]), CacheChoice("load", "memory", 2**20, 1.0)
    running = IteratorSetup(Config(cache=choice), Rewrites((CUT,)))
    running._renew_store(small)
    first = running.stored
    small.state[0] = 3
    running.note_change(small)
    assert running.stored is first, "its fingerprint tells of the change, so the next epoch has another store"
    running._renew_store(small)
    second = running.stored
    assert second.fingerprint != first.fingerprint
    running.note_change(small)
    running._renew_store(small)
    assert running.stored.fingerprint != second.fingerprint, "what has changed is nothing that it tells of"


def test_attributes_of_functions_count():
    def amplify(x):
        return x * amplify.factor

    amplify.factor = 2
    dataset = Plain(amplify)
    before = fingerprint(dataset, CUT, ())
    assert fingerprint(dataset, CUT, ()) == before
    amplify.factor = 3
    assert fingerprint(dataset, CUT, ()) != before


def test_of_small_data_all_is_looked_at():
    dataset = Plain([torch.ones(3), {"a": [1, 2, 3]}, "text"])
    assert fingerprint_of_part(dataset, CUT) == (fingerprint(dataset, CUT, ()), False)


def test_a_store_in_memory_is_this_job_s_where_a_part_was_looked_at(tmp_path, monkeypatch):
    large, choice = Plain([{"row": row} for row in range(5000)]), CacheChoice("load", "memory", 2**20, 1.0)
    assert DatasetStore(large, CUT, choice).fingerprint != fingerprint(large, CUT, ())
    assert DatasetStore(Plain([1]), CUT, choice).fingerprint == fingerprint(Plain([1]), CUT, ())
    on_disk = DatasetStore(large, CUT, dataclasses.replace(choice, tier="disk", folder=str(tmp_path)))
    assert on_disk.fingerprint == fingerprint(large, CUT, ())
    assert on_disk.is_of(large)
    large.state[-1]["row"] = 0
    assert not on_disk.is_of(large)


SETTINGS = types.ModuleType("settings_of_a_script")
SETTINGS.__file__, SETTINGS.SCALE = "/home/user/project/settings_of_a_script.py", 1


class Scaled(Plain):
    def __getitem__(self, index):
        return self.state[index] * SETTINGS.SCALE


def test_an_option_in_another_module_of_the_user_s_counts(monkeypatch):
    before = fingerprint(Scaled([1]), CUT, ())
    assert before == fingerprint(Scaled([1]), CUT, ())
    monkeypatch.setattr(SETTINGS, "SCALE", 2)
    assert before != fingerprint(Scaled([1]), CUT, ())
