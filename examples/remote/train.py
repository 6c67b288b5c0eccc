"""Trains on objects that come over HTTP one by one, as from an object store; a local server stands in for the store.

What it shows: a sample costs hardly any CPU, and the loader spends its time waiting for answers. Then the number of
samples that are read at once decides, not the number of cores, and the report says how many the store can serve.

    python examples/remote/train.py               train as it is; the store runs meanwhile, in a process of its own
    plumb tune examples/remote/train.py           find how many samples to read at once, and how
    plumb run examples/remote/train.py            train on the plan that the tuning wrote
"""

import argparse
import time
import urllib.request

import numpy as np
import torch
from object_store import CLASSES, VALUES, label_of, running_store
from torch import nn
from torch.utils.data import DataLoader, Dataset


def fetch(address, number):
    with urllib.request.urlopen(f"{address}/{number}") as answer:
        return answer.read()


class RemoteDataset(Dataset):
    def __init__(self, address, count):
        self.address = address
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        values = np.frombuffer(fetch(self.address, index), dtype=np.uint8)
        return torch.from_numpy(values.astype(np.float32) / 255), label_of(index)


def main():
    parser = argparse.ArgumentParser(description="Train a small network on objects of a store.")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--objects", type=int, default=400)
    parser.add_argument("--workers", type=int, default=0, help="num_workers of the loader")
    args = parser.parse_args()
    torch.manual_seed(0)

    with running_store() as address:
        dataset = RemoteDataset(address, args.objects)
        train_loader = DataLoader(dataset, batch_size=16, shuffle=True, num_workers=args.workers)
        model = nn.Sequential(nn.Linear(VALUES, 16), nn.ReLU(), nn.Linear(16, CLASSES))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for epoch in range(1, args.epochs + 1):
            total, started = 0.0, time.perf_counter()
            for values, labels in train_loader:
                loss = nn.functional.cross_entropy(model(values), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            rate = len(dataset) / (time.perf_counter() - started)
            print(f"epoch {epoch}: loss {total / len(train_loader):.3f}, {rate:,.0f} objects/s", flush=True)


if __name__ == "__main__":
    main()
