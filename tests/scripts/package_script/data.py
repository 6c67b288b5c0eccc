"""The dataset of package_script.train."""

import zlib

import numpy as np
import torch
from torch.utils.data import Dataset


class RecordDataset(Dataset):
    def __init__(self, count):
        rng = np.random.default_rng(0)
        self.records = [zlib.compress(rng.integers(0, 16, 100_000, dtype=np.uint8).tobytes(), 1) for _ in range(16)]
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        raw = np.frombuffer(zlib.decompress(self.records[index % len(self.records)]), dtype=np.uint8)
        return torch.from_numpy(raw[index : index + 64].astype(np.float32)) / 16, index % 10
