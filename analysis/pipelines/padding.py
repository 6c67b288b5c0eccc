"""Sequences of different lengths: the sample is a copy, and the work is in collate, which pads."""

from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from analysis.pipelines.pipeline import Pipeline, made_once

_FRAMES, _FEATURES = 200_000, 40


class Utterances(Dataset):
    """Pieces of one long recording's features."""

    def __init__(self, path, length):
        random = np.random.default_rng(1)
        self.features = np.load(path, mmap_mode="r")
        self.lengths = random.integers(100, 1500, length)
        self.starts = random.integers(0, _FRAMES - 1500, length)

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        start = self.starts[index]
        return torch.from_numpy(np.array(self.features[start : start + self.lengths[index]]))


def padded(samples):
    """Return the sequences, longest first, padded, each normalised over its own frames."""
    samples = sorted(samples, key=len, reverse=True)
    lengths = torch.tensor([len(sample) for sample in samples])
    batch = pad_sequence(samples, batch_first=True)
    mask = torch.arange(batch.shape[1])[None, :] < lengths[:, None]
    count = lengths[:, None].float()
    mean = batch.sum(1) / count
    centred = (batch - mean[:, None]) * mask[..., None]
    deviation = (centred.square().sum(1) / count).sqrt()
    return centred / deviation[:, None], mask


def _fill(folder):
    np.save(folder / "features.npy", np.random.default_rng(0).standard_normal((_FRAMES, _FEATURES), dtype=np.float32))


def make(folder: Path) -> Pipeline:
    """Return a pipeline of batches of padded sequences, and where they are."""
    path = made_once(folder / "padding", _fill) / "features.npy"
    return Pipeline("padding", "collate", Utterances(path, 8192), 32, collate_fn=padded)
