"""Small datasets of the kinds that users write, for the tests of tracing."""

import random
import time

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

SAMPLES = 12


def write_pictures(folder, count=SAMPLES, size=(320, 240)):
    """Writes `count` smooth JPEG pictures and a PNG mask for each, by a fixed seed."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 255, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
        Image.fromarray(coarse[..., 0] // 64).resize(size, Image.Resampling.NEAREST).save(folder / f"{number}.png")


class Detection(Dataset):
    """Image, mask and boxes of a scene: three branches, flipped together."""

    def __init__(self, folder):
        self.folder = folder
        self.boxes = np.random.default_rng(1).random((SAMPLES, 20_000, 4), dtype=np.float32)

    def __len__(self):
        return SAMPLES

    def load_mask(self, index):
        return np.array(Image.open(self.folder / f"{index}.png"))

    def load_boxes(self, index):
        boxes = self.boxes[index]
        order = np.argsort(boxes[:, 0])
        return boxes[order]

    def __getitem__(self, index):
        image = Image.open(self.folder / f"{index}.jpg").convert("RGB")
        mask = self.load_mask(index)
        boxes = self.load_boxes(index)
        pixels = np.asarray(image) / 255.0
        if random.random() < 0.5:
            pixels = np.fliplr(pixels).copy()
            mask = np.fliplr(mask).copy()
        target = {"mask": torch.from_numpy(mask), "boxes": torch.from_numpy(boxes)}
        return torch.from_numpy(pixels), target


class Lines(IterableDataset):
    """Generators chained in `__iter__`."""

    def __init__(self, path):
        self.path = path

    def read(self):
        with open(self.path) as file:
            yield from file

    def parse(self, lines):
        for line in lines:
            yield np.array(line.split(","), dtype=np.float64)

    def spread(self, rows):
        for row in rows:
            yield torch.from_numpy(np.outer(row, row))

    def __iter__(self):
        rows = self.parse(self.read())
        yield from self.spread(rows)


class Waiting(Dataset):
    """Waits in one step and computes in another, each longer than what surrounds them."""

    def __len__(self):
        return 4

    def fetch(self, index):
        time.sleep(0.01)
        return np.full(200_000, index, dtype=np.float64)

    def work(self, values):
        total = 0
        for value in range(100_000):
            total += value
        return values * total

    def __getitem__(self, index):
        return self.work(self.fetch(index))


class Doubled(Dataset):
    """A wrapper of the user's own."""

    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        return self.inner[index] * 2


class Noise(Dataset):
    """Draws from generators of all kinds, and from one of its own."""

    def __init__(self):
        self.own = np.random.default_rng(0)

    def __len__(self):
        return 8

    def constant(self, index):
        return np.full(100_000, index, dtype=np.float64)

    def __getitem__(self, index):
        values = self.constant(index)
        values = values + self.own.random(100_000)
        return torch.from_numpy(values) + torch.rand(100_000)
