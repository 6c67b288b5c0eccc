"""Equal runs agree on a fingerprint; whatever decides on values changes it."""

import json
import os
import subprocess
import sys

import numpy
import torch

from plumb.config import Cut, Step
from plumb.runtime.fingerprint import fingerprint

CUT = Cut("load", (Step("D.__getitem__#1", "load"),))

SCRIPT = """
import functools, pathlib, sys, threading
import numpy, torch
from PIL import Image
from torch.utils.data import Dataset, Subset, ConcatDataset
from plumb.config import Cut, Step
from plumb.runtime.fingerprint import fingerprint

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

cut = Cut("load", (Step("D.__getitem__#1", "load"),))
dataset = ConcatDataset([Subset(D(), [1, 2]), D()])
print(fingerprint(dataset, cut, [D.__getitem__, load]))
"""


def run(path, seed):
    environment = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, env=environment, check=True)
    return done.stdout


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
