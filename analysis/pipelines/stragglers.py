"""A source that answers quickly, but for one sample in a hundred, which takes fifty times as long."""

import time
from pathlib import Path

import torch
from torch.utils.data import Dataset

from analysis.pipelines.pipeline import Pipeline

_QUICK_SECONDS, _SLOW_FACTOR, _SLOW_SHARE = 0.002, 50, 0.01


class Stragglers(Dataset):
    """Which samples are slow is always the same, and without a pattern."""

    def __init__(self, length):
        random = torch.Generator().manual_seed(0)
        self.slow = torch.rand(length, generator=random) < _SLOW_SHARE
        self.values = torch.randn(length, 512, generator=random)

    def __len__(self):
        return len(self.slow)

    def __getitem__(self, index):
        time.sleep(_QUICK_SECONDS * (_SLOW_FACTOR if self.slow[index] else 1))
        return self.values[index].tanh()


def make(folder: Path) -> Pipeline:
    """Two milliseconds, or a hundred; nothing is written to `folder`."""
    return Pipeline(
        "stragglers", "waiting, for a few samples most of all", Stragglers(8192), 32, worker_counts=(0, 1, 2, 4, 8)
    )
