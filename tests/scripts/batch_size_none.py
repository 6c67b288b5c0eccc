"""The dataset returns whole batches, and the loader is told not to make any (batch_size=None)."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

BATCHES, BATCH_SIZE = 60, 16
EPOCHS = 3


class BatchDataset(Dataset):
    def __len__(self):
        return BATCHES

    def __getitem__(self, index):
        signals = np.random.default_rng(index).standard_normal((BATCH_SIZE, 60_000), dtype=np.float32)
        spectra = np.abs(np.fft.rfft(signals))[:, :64]
        return torch.from_numpy(spectra / 250).float(), torch.arange(BATCH_SIZE) % 10


torch.manual_seed(0)
model = nn.Linear(64, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
train_loader = DataLoader(BatchDataset(), batch_size=None, shuffle=True)

for epoch in range(EPOCHS):
    total = 0.0
    for inputs, labels in train_loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch} done loss={total / len(train_loader):.6f}", flush=True)
