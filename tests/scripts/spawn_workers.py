"""The loader's one worker is spawned, not forked."""

import zlib

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

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


def main():
    torch.manual_seed(0)
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_loader = DataLoader(
        RecordDataset(SAMPLES),
        batch_size=16,
        shuffle=True,
        num_workers=1,
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    for epoch in range(EPOCHS):
        total = 0.0
        for inputs, labels in train_loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch} done loss={total / len(train_loader):.6f}", flush=True)


if __name__ == "__main__":
    main()
