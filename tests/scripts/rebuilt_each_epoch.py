"""A new training loader is made for every epoch."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

SAMPLES = 1600
EPOCHS = 4


class SignalDataset(Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        signal = np.random.default_rng(index).standard_normal(60_000, dtype=np.float32)
        spectrum = np.abs(np.fft.rfft(signal))[:64]
        return torch.from_numpy(spectrum / 250).float(), index % 10


torch.manual_seed(0)
dataset = SignalDataset(SAMPLES)
model = nn.Linear(64, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

for epoch in range(EPOCHS):
    part = Subset(dataset, range(epoch % 2, SAMPLES, 2))
    train_loader = DataLoader(part, batch_size=16, shuffle=True)
    total = 0.0
    for inputs, labels in train_loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch} done loss={total / len(train_loader):.6f}", flush=True)
