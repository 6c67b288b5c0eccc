"""There is no DataLoader: batches are cut from a memory-mapped token file by hand, as in nanoGPT."""

import os
import tempfile

import numpy as np
import torch
from torch import nn

BATCH_SIZE, BLOCK_SIZE = 32, 64
STEPS_PER_EPOCH, EPOCHS = 100, 3


def get_batch(path):
    # A new memmap for every batch, as the original does, to keep the mapping from growing.
    data = np.memmap(path, dtype=np.uint16, mode="r")
    starts = torch.randint(len(data) - BLOCK_SIZE, (BATCH_SIZE,))
    x = torch.stack([torch.from_numpy(data[i : i + BLOCK_SIZE].astype(np.int64)) for i in starts])
    y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + BLOCK_SIZE].astype(np.int64)) for i in starts])
    return x, y


def main():
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "train.bin")
        np.random.default_rng(0).integers(0, 128, 1_000_000, dtype=np.uint16).tofile(path)
        model = nn.Sequential(nn.Embedding(128, 32), nn.Linear(32, 128))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
        for epoch in range(EPOCHS):
            total = 0.0
            for _ in range(STEPS_PER_EPOCH):
                x, y = get_batch(path)
                loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += loss.item()
            print(f"epoch {epoch} done loss={total / STEPS_PER_EPOCH:.6f}", flush=True)


if __name__ == "__main__":
    main()
