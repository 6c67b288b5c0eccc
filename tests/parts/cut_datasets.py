"""Datasets whose samples can be cut, or must not be, for the tests of replay, cuts and validation."""

import random

import numpy as np
import torch
from torch.utils.data import Dataset

SAMPLES = 12
VALUES = 20_000


def generated(index):
    return np.random.default_rng(index).random(VALUES)


def smoothed(values):
    return np.convolve(values, np.ones(65) / 65, mode="same")


def jittered(values):
    return values + np.random.random(len(values)) * torch.rand(()).item()


class Indexed(Dataset):
    def __len__(self):
        return SAMPLES


class Inline(Indexed):
    """All of it in one function."""

    def __getitem__(self, index):
        x = generated(index)
        x = np.sort(x)
        x = x * 2.0
        x = np.clip(x, 0.5, 1.5)
        if random.random() < 0.5:
            x = x[::-1].copy()
        return torch.from_numpy(x + np.random.random(VALUES)), index % 3


class Helped(Indexed):
    """A helper method makes the label beside the values, another goes on with the values."""

    def load(self, index):
        values = generated(index)
        label = f"label of {index}"
        return smoothed(values), label

    def prepared(self, values):
        return np.sort(smoothed(values))

    def __getitem__(self, index):
        values, label = self.load(index)
        return {"values": jittered(self.prepared(values)), "label": label}


class Repeated(Indexed):
    """A helper does the same to several parts, and returns them all."""

    def load(self, index):
        parts = []
        for part in range(3):
            values = generated(index + part)
            parts.append(smoothed(np.sort(values)))
        return parts

    def __getitem__(self, index):
        first, second, third = self.load(index)
        return jittered(first) + second * third


class InPlace(Indexed):
    """What comes behind the cut changes the cut's value."""

    def __getitem__(self, index):
        values = np.sort(generated(index))
        values += np.random.random(VALUES)
        np.negative(values, out=values)
        return values


class Scaled:
    """A step with a parameter, of dictionaries."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, sample):
        sample = dict(sample)
        sample["x"] = np.sort(sample["x"]) * self.factor
        return sample


class Jittered:
    def __call__(self, sample):
        return {**sample, "x": jittered(sample["x"])}


class Chain:
    """A Compose of the user's own."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, sample):
        for step in self.steps:
            sample = step(sample)
        return sample


class Chained(Indexed):
    def __init__(self, steps):
        self.transform = Chain(steps)

    def load(self, index):
        return {"x": generated(index), "y": index}

    def __getitem__(self, index):
        return self.transform(self.load(index))


class Wrapper(Indexed):
    """A wrapper of the user's own, that adds to what it reads."""

    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        return self.inner[index], index


def closing(scale):
    def load(index):
        return np.sort(generated(index)) * scale

    return load


class Closed(Indexed):
    """Its loader is a closure."""

    def __init__(self, scale):
        self.load = closing(scale)

    def __getitem__(self, index):
        return jittered(self.load(index))


class Clip(Indexed):
    """Frames collected in a list, then stacked."""

    def frame(self, number):
        return np.sort(generated(number))

    def __getitem__(self, index):
        frames = []
        for number in range(index, index + 3):
            frames.append(self.frame(number))  # noqa: PERF401
        return jittered(np.stack(frames).sum(0))


class Mosaic(Indexed):
    """A sample is made of others, which are drawn."""

    def load(self, index):
        return np.sort(generated(index))

    def __getitem__(self, index):
        others = [index, *random.choices(range(SAMPLES), k=3)]
        return np.concatenate([self.load(other) for other in others])


class RarelyAnother(Indexed):
    """Reads another sample, once in a long while: nothing that a few samples would show."""

    def load(self, index):
        return np.sort(generated(index))

    def __getitem__(self, index):
        if random.random() < 1e-6:
            index = 0
        return jittered(self.load(index))


class OwnGenerator(Indexed):
    """Draws from a generator of its own, before its values are sorted."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __getitem__(self, index):
        values = generated(index)
        noise = self.rng.random(VALUES)
        return np.sort(values + noise)


class Counting(Indexed):
    """What it returns depends on how often it was read."""

    def __init__(self):
        self.count = 0

    def load(self, index):
        self.count += 1
        return np.sort(generated(index)) + self.count

    def __getitem__(self, index):
        return np.sort(self.load(index))


class Leaving(Indexed):
    """Its loader leaves something in the dataset for the code behind it."""

    def load(self, index):
        self.scale = index + 1.5
        return np.sort(generated(index))

    def __getitem__(self, index):
        return jittered(self.load(index)) * self.scale


class Early(Indexed):
    """Some samples return before they are sorted."""

    def load(self, index):
        return smoothed(generated(index))

    def __getitem__(self, index):
        values = self.load(index)
        if index % 2:
            return jittered(values)
        return jittered(np.sort(values))


class Even(Indexed):
    """What each call makes is as large as what the others make."""

    def __getitem__(self, index):
        return np.sort(smoothed(generated(index)))


class Measuring(Indexed):
    """Looks at what was loaded again, behind what was made from it."""

    def __getitem__(self, index):
        values = np.sort(generated(index))
        short = np.sort(smoothed(values))
        return jittered(short) * values.shape[0]


class Failing(Indexed):
    """Has a sample that can't be read, and one that can't be augmented."""

    def load(self, index):
        if index == 3:
            raise KeyError("nothing at 3")
        return np.sort(generated(index))

    def __getitem__(self, index):
        values = self.load(index)
        if index == 5:
            raise ZeroDivisionError("five")
        return jittered(values)


class Guarded(Indexed):
    """Cleans up, and handles its own exceptions."""

    def __init__(self):
        self.log = []

    def __getitem__(self, index):
        try:
            values = np.sort(generated(index))
            return jittered(values)
        except Exception:
            return None
        finally:
            self.log.append(index)


class Swallowing(Indexed):
    """Catches everything."""

    def __getitem__(self, index):
        try:
            values = np.sort(generated(index))
        except:  # noqa: E722
            values = None
        return values


class OneFile(Indexed):
    """Threads share a file and its position."""

    def __init__(self, path):
        np.concatenate([np.full(VALUES, index, dtype=np.uint8) for index in range(SAMPLES)]).tofile(path)
        self.file = open(path, "rb")  # noqa: SIM115

    def load(self, index):
        self.file.seek(index * VALUES)
        return np.frombuffer(self.file.read(VALUES), dtype=np.uint8)

    def __getitem__(self, index):
        return np.sort(self.load(index)).astype(np.float32)
