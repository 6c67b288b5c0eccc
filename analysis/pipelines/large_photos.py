"""Photographs much larger than what is learned from: decode and resize, always the same for the same file."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from analysis.pipelines.pictures import write_pictures
from analysis.pipelines.pipeline import Pipeline, made_once

_FILES = 256


class LargePhotos(Dataset):
    """The whole picture, made small."""

    def __init__(self, folder):
        self.paths = sorted(Path(folder).glob("*.jpg"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = Image.open(self.paths[index]).convert("RGB").resize((224, 224), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels.float() / 255, index % 10


def make(folder: Path) -> Pipeline:
    """Files of 1600x1200."""
    pictures = made_once(folder / "large_photos", lambda draft: write_pictures(draft, _FILES, 1600, 1200))
    return Pipeline("large photos", "the CPU", LargePhotos(pictures), batch_size=32)
