"""Images that their user decoded beforehand, into one file that is mapped into memory: a cache by hand."""

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from analysis.pipelines.pictures import example_paths
from analysis.pipelines.pipeline import Pipeline, made_once

_IMAGES, _SIDE, _CROP = 500, 256, 224
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Decoded(Dataset):
    """A random crop, a flip, and the usual normalisation."""

    def __init__(self, path, length):
        self.images = np.load(path, mmap_mode="r")
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        top, left = random.randrange(_SIDE - _CROP), random.randrange(_SIDE - _CROP)
        pixels = self.images[index % _IMAGES, top : top + _CROP, left : left + _CROP]
        tensor = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous()
        if random.random() < 0.5:
            tensor = tensor.flip(-1)
        return (tensor.float() / 255 - _MEAN) / _STD


def _fill(folder):
    paths = example_paths()[:_IMAGES]
    np.save(folder / "images.npy", np.stack([np.asarray(Image.open(path).resize((_SIDE, _SIDE))) for path in paths]))


def make(folder: Path) -> Pipeline:
    """Crops of decoded images."""
    path = made_once(folder / "decoded", _fill) / "images.npy"
    return Pipeline("decoded", "memory and the CPU alike", Decoded(path, 6000), batch_size=64)
