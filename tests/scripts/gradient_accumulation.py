"""The optimizer steps only after every fourth batch."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SAMPLES = 960
ACCUMULATE = 4
EPOCHS = 3


class SignalDataset(Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        signal = np.random.default_rng(index).standard_normal(60_000, dtype=np.float32)
        spectrum = np.abs(np.fft.rfft(signal))[:64]
        return torch.from_numpy(spectrum / 250).float(), index % 10


def main():
    torch.manual_seed(0)
    train_loader = DataLoader(SignalDataset(SAMPLES), batch_size=8, shuffle=True, drop_last=True)
    model = nn.Linear(64, 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.9)
    for epoch in range(EPOCHS):
        total = 0.0
        for number, (inputs, labels) in enumerate(train_loader, start=1):
            loss = nn.functional.cross_entropy(model(inputs), labels) / ACCUMULATE
            loss.backward()
            total += loss.item()
            if number % ACCUMULATE == 0:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        print(f"epoch {epoch} done loss={total * ACCUMULATE / len(train_loader):.6f}", flush=True)


if __name__ == "__main__":
    main()
