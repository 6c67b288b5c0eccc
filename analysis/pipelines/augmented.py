"""Photographs of which a random part is taken: the decode is most of the work, and only what follows is random."""

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from analysis.pipelines.pictures import write_pictures
from analysis.pipelines.pipeline import Pipeline, made_once

_FILES, _SIDE = 512, 224
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def load(path):
    """Return the decoded picture."""
    with open(path, "rb") as file:
        return Image.open(file).convert("RGB")


class Augmented(Dataset):
    """A random part of the picture, flipped or not, and its brightness changed."""

    def __init__(self, folder):
        self.paths = sorted(Path(folder).glob("*.jpg"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = load(self.paths[index])
        side = int(min(image.size) * random.uniform(0.4, 1.0))
        left, top = random.randint(0, image.width - side), random.randint(0, image.height - side)
        image = image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255
        return (pixels * random.uniform(0.8, 1.2) - _MEAN) / _STD, index % 10


def make(folder: Path) -> Pipeline:
    """Files of 1000x750."""
    pictures = made_once(folder / "augmented", lambda draft: write_pictures(draft, _FILES, 1000, 750))
    return Pipeline("augmented photos", "the CPU", Augmented(pictures), batch_size=32)
