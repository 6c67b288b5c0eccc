"""Loaders come out of a factory function, which makes them with functools.partial."""

import functools
import zlib

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split

SAMPLES = 1200
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


make_loader = functools.partial(DataLoader, batch_size=16, num_workers=0, drop_last=False)


def get_loaders(dataset):
    generator = torch.Generator().manual_seed(1)
    train_set, test_set = random_split(dataset, [0.9, 0.1], generator=generator)
    return {"train": make_loader(train_set, shuffle=True), "test": make_loader(test_set)}


torch.manual_seed(0)
loaders = get_loaders(RecordDataset(SAMPLES))
model = nn.Linear(64, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(EPOCHS):
    total = 0.0
    for inputs, labels in loaders["train"]:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    with torch.no_grad():
        test_loss = sum(nn.functional.cross_entropy(model(inputs), labels).item() for inputs, labels in loaders["test"])
    print(f"epoch {epoch} done loss={total / len(loaders['train']):.6f} test={test_loss:.6f}", flush=True)
