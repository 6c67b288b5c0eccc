"""A sample waits 4 ms, as for a remote store, and computes next to nothing: it wants more workers than cores."""

import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SAMPLES = 640
WAIT_MS = 4
EPOCHS = 3


class RemoteDataset(Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        time.sleep(WAIT_MS / 1000)
        values = np.random.default_rng(index).standard_normal(64, dtype=np.float32)
        return torch.from_numpy(values), index % 10


def main():
    torch.manual_seed(0)
    train_loader = DataLoader(RemoteDataset(SAMPLES), batch_size=16, shuffle=True)
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
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
