"""Each step takes a batch from each of two loaders: labelled and unlabelled samples, of different batch sizes."""

import zlib

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

LABELLED, UNLABELLED = 250, 1000
EPOCHS = 3


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
labelled_loader = DataLoader(RecordDataset(LABELLED), batch_size=5, shuffle=True, drop_last=True)
unlabelled_loader = DataLoader(RecordDataset(UNLABELLED), batch_size=20, shuffle=True, drop_last=True)
model = nn.Linear(64, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

for epoch in range(EPOCHS):
    total, steps = 0.0, 0
    for (inputs, labels), (others, _) in zip(labelled_loader, unlabelled_loader, strict=True):
        supervised = nn.functional.cross_entropy(model(inputs), labels)
        guesses = model(others).softmax(dim=1)
        loss = supervised - 0.1 * (guesses * guesses.log()).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, steps = total + loss.item(), steps + 1
    print(f"epoch {epoch} done loss={total / steps:.6f} steps={steps}", flush=True)
