"""Frames in memory from which a background is taken: nothing but reading and writing memory."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from analysis.pipelines.pipeline import Pipeline

_FRAMES, _SIDE, _WINDOW = 48, 1024, 256


class Frames(Dataset):
    """A window of the difference between a frame and the background, which takes whole frames through the memory."""

    def __init__(self, length):
        random = np.random.default_rng(0)
        self.frames = random.standard_normal((_FRAMES, _SIDE, _SIDE), dtype=np.float32)
        self.background = self.frames.mean(axis=0)
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        frame = self.frames[index % _FRAMES].copy()
        frame -= self.background
        frame *= 0.5
        corner = index * 7919 % (_SIDE - _WINDOW)
        return torch.from_numpy(frame[corner : corner + _WINDOW, :_WINDOW].copy())


def make(folder: Path) -> Pipeline:
    """Four megabytes a frame, each passed over three times; nothing is written to `folder`."""
    return Pipeline("bandwidth", "the memory's bandwidth", Frames(2048), batch_size=16)
