"""Dies of a segmentation fault after a loader was made and a few batches were taken from it."""

import ctypes
import zlib

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SAMPLES = 1200
STEPS_BEFORE = 3


class RecordDataset(Dataset):
    def __init__(self, count):
        rng = np.random.default_rng(0)
        self.records = [zlib.compress(rng.integers(0, 16, 300_000, dtype=np.uint8).tobytes(), 1) for _ in range(16)]
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        raw = np.frombuffer(zlib.decompress(self.records[index % len(self.records)]), dtype=np.uint8)
        return torch.from_numpy(raw[index : index + 64].astype(np.float32)) / 16, index % 10


torch.manual_seed(0)
model = nn.Linear(64, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train_loader = DataLoader(RecordDataset(SAMPLES), batch_size=16, shuffle=True)

for step, (inputs, labels) in enumerate(train_loader):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    if step == STEPS_BEFORE:
        print("about to read address 0", flush=True)
        ctypes.string_at(0)
