"""An iterable dataset that knows nothing of workers: each worker would deliver all of it."""

import zlib

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

SAMPLES = 1200
EPOCHS = 3


class RecordStream(IterableDataset):
    def __init__(self, count):
        rng = np.random.default_rng(0)
        self.records = [zlib.compress(rng.integers(0, 16, 300_000, dtype=np.uint8).tobytes(), 1) for _ in range(16)]
        self.count = count

    def __iter__(self):
        for index in range(self.count):
            raw = np.frombuffer(zlib.decompress(self.records[index % len(self.records)]), dtype=np.uint8)
            yield torch.from_numpy(raw[index : index + 64].astype(np.float32)) / 16, index


torch.manual_seed(0)
model = nn.Linear(64, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train_loader = DataLoader(RecordStream(SAMPLES), batch_size=16)

for epoch in range(EPOCHS):
    total, seen = 0.0, []
    for inputs, numbers in train_loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), numbers % 10)
        loss.backward()
        optimizer.step()
        total += loss.item()
        seen += numbers.tolist()
    print(f"epoch {epoch} done loss={total:.6f} samples={len(seen)} different={len(set(seen))}", flush=True)
