"""accelerate wraps the loaders: it makes others from their arguments, and reads one batch ahead."""

import zlib

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, Dataset

TRAIN_SAMPLES, VAL_SAMPLES = 1200, 160
EPOCHS = 2


class RecordDataset(Dataset):
    def __init__(self, count):
        rng = np.random.default_rng(0)
        self.records = [zlib.compress(rng.integers(0, 16, 100_000, dtype=np.uint8).tobytes(), 1) for _ in range(16)]
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        raw = np.frombuffer(zlib.decompress(self.records[index % len(self.records)]), dtype=np.uint8)
        return torch.from_numpy(raw[index : index + 64].astype(np.float32)) / 16, index % 10


def main():
    set_seed(0)
    accelerator = Accelerator(cpu=True)
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_loader = DataLoader(RecordDataset(TRAIN_SAMPLES), batch_size=16, shuffle=True)
    val_loader = DataLoader(RecordDataset(VAL_SAMPLES), batch_size=16)
    model, optimizer, train_loader, val_loader = accelerator.prepare(model, optimizer, train_loader, val_loader)

    for epoch in range(EPOCHS):
        total, correct = 0.0, 0
        model.train()
        for inputs, labels in train_loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            accelerator.backward(loss)
            optimizer.step()
            total += loss.item()
        model.eval()
        for inputs, labels in val_loader:
            with torch.no_grad():
                guesses = model(inputs).argmax(dim=1)
            guesses, labels = accelerator.gather_for_metrics((guesses, labels))
            correct += (guesses == labels).sum().item()
        accelerator.print(f"epoch {epoch} done loss={total / len(train_loader):.6f} correct={correct}", flush=True)


if __name__ == "__main__":
    main()
