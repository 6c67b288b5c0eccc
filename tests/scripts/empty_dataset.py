"""The dataset has no samples: the training loop runs, and takes no batch."""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

EPOCHS = 2


class Files(Dataset):
    def __init__(self, folder):
        self.paths = sorted(Path(folder).glob("*.no-such-file"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return torch.load(self.paths[index])


model = nn.Linear(64, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train_loader = DataLoader(Files("."), batch_size=16)

for epoch in range(EPOCHS):
    total = 0.0
    for inputs, labels in train_loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch} done loss={total:.6f}", flush=True)
