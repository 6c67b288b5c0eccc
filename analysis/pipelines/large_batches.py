"""Batches of 50 MB: stacking them, and handing them over, costs more than making their samples."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from analysis.pipelines.pipeline import Pipeline, made_once

_IMAGES, _SIDE = 1024, 128


class SmallImages(Dataset):
    """Images in one file of bytes, mapped into memory."""

    def __init__(self, path, length):
        self.images = np.load(path, mmap_mode="r")
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        image = torch.from_numpy(self.images[index % _IMAGES].copy())
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return image.float() / 255, index % 10


def _fill(folder):
    random = np.random.default_rng(0)
    np.save(folder / "images.npy", random.integers(0, 256, (_IMAGES, 3, _SIDE, _SIDE), dtype=np.uint8))


def make(folder: Path) -> Pipeline:
    """256 images of 3x128x128 numbers a batch."""
    path = made_once(folder / "large_batches", _fill) / "images.npy"
    return Pipeline("large batches", "stacking and handing over large batches", SmallImages(path, 16384), 256)
