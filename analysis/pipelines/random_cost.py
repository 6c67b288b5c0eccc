"""Documents of very different lengths, hashed word by word: the cost of a sample is random, and is Python's own."""

import re
import zlib
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from analysis.pipelines.pipeline import Pipeline, made_once

_DOCUMENTS, _MEDIAN_WORDS, _BUCKETS = 2000, 1200, 4096
_WORD = re.compile(r"\w+")


class Documents(Dataset):
    """Documents as counts of each hashed word."""

    def __init__(self, folder):
        self.paths = sorted(Path(folder).glob("*.txt"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        text = self.paths[index].read_text()
        counts = [0.0] * _BUCKETS
        for word in _WORD.findall(text.lower()):
            counts[zlib.crc32(word.encode()) % _BUCKETS] += 1
        return torch.tensor(counts).log1p()


def _fill(folder):
    random = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(5000)])
    for number in range(_DOCUMENTS):
        length = int(np.clip(random.lognormal(np.log(_MEDIAN_WORDS), 1.0), 20, 40_000))
        (folder / f"{number:05d}.txt").write_text(" ".join(random.choice(words, length)))


def make(folder: Path) -> Pipeline:
    """Lognormal lengths: a few documents take many times what most take."""
    return Pipeline("random cost", "the CPU", Documents(made_once(folder / "random_cost", _fill)), batch_size=32)
