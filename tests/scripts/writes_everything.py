"""Writes a log line each step, a checkpoint over an older one each epoch, and a cache of labels beside its data."""

import time
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SAMPLES = 320
EPOCHS = 2
DATA, LOG, MODEL = Path("records"), Path("log.txt"), Path("model.pt")


class Records(Dataset):
    def __init__(self, folder, count):
        self.paths = sorted(folder.glob("*.z"))
        self.cache = folder / "labels.npy"
        self.count = count
        self.labels = None

    def __len__(self):
        return self.count

    def read(self, number):
        return np.frombuffer(zlib.decompress(self.paths[number].read_bytes()), dtype=np.uint8)

    def load_labels(self):
        if not self.cache.exists():
            np.save(self.cache, np.array([int(self.read(number)[0]) % 10 for number in range(len(self.paths))]))
        return np.load(self.cache)

    def __getitem__(self, index):
        if self.labels is None:
            self.labels = self.load_labels()
        number = index % len(self.paths)
        values = self.read(number)[index : index + 64]
        return torch.from_numpy(values.astype(np.float32)) / 16, int(self.labels[number])


def write_data(folder):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(16):
        raw = rng.integers(0, 16, 100_000, dtype=np.uint8)
        (folder / f"{number:02d}.z").write_bytes(zlib.compress(raw.tobytes(), 1))


def main():
    torch.manual_seed(0)
    if not DATA.exists():
        write_data(DATA)
    train_loader = DataLoader(Records(DATA, SAMPLES), batch_size=16, shuffle=True)
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with LOG.open("a") as log:
        log.write(f"{time.strftime('%H:%M:%S')} started\n")
        for epoch in range(EPOCHS):
            total = 0.0
            for step, (inputs, labels) in enumerate(train_loader):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(inputs), labels)
                loss.backward()
                optimizer.step()
                total += loss.item()
                log.write(f"epoch {epoch} step {step} loss {loss.item():.6f}\n")
                log.flush()
            torch.save({"epoch": epoch, "model": model.state_dict()}, MODEL)
            print(f"epoch {epoch} done loss={total / len(train_loader):.6f}", flush=True)


if __name__ == "__main__":
    main()
