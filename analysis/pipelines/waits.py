"""Feature files on a slow source: every read waits for the source, and then for little else."""

import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from analysis.pipelines.pipeline import Pipeline, made_once

_FILES, _FEATURES = 256, 4096
_LATENCY_SECONDS = 0.004


class SlowFiles(Dataset):
    """Reads a file; a sleep stands in for the source's latency."""

    def __init__(self, folder, length):
        self.paths = sorted(Path(folder).glob("*.npy"))
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        time.sleep(_LATENCY_SECONDS)
        features = np.load(self.paths[index % len(self.paths)])
        return torch.from_numpy(features - features.mean()), index


def _fill(folder):
    random = np.random.default_rng(0)
    for number in range(_FILES):
        np.save(folder / f"{number:04d}.npy", random.standard_normal(_FEATURES, dtype=np.float32))


def make(folder: Path) -> Pipeline:
    """Return a pipeline of samples of a few kilobytes that wait for four milliseconds each."""
    dataset = SlowFiles(made_once(folder / "waits", _fill), 4096)
    return Pipeline("waits", "waiting for the source", dataset, 32, worker_counts=(0, 1, 2, 4, 8, 16))
