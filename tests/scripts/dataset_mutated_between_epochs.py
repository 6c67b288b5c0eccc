"""dataset.set_epoch() changes what its samples are: workers kept from the last epoch would not learn of it."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SAMPLES = 320
EPOCHS = 3


class EpochDataset(Dataset):
    def __init__(self, count):
        self.count = count
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        signal = np.random.default_rng((self.epoch, index)).standard_normal(60_000, dtype=np.float32)
        spectrum = np.abs(np.fft.rfft(signal))[:64]
        return torch.from_numpy(spectrum / 250).float(), index % 10, self.epoch


torch.manual_seed(0)
dataset = EpochDataset(SAMPLES)
train_loader = DataLoader(dataset, batch_size=16, shuffle=True)
model = nn.Linear(64, 10)

for epoch in range(EPOCHS):
    dataset.set_epoch(epoch)
    total, stale = 0.0, 0
    for inputs, labels, made_in in train_loader:
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.05 * parameter.grad
        model.zero_grad()
        total += loss.item()
        stale += int((made_in != epoch).sum())
    print(f"epoch {epoch} done loss={total / len(train_loader):.6f} stale={stale}", flush=True)
