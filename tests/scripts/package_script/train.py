"""Runs as a module of a package, with relative imports: python -m package_script.train."""

import argparse
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader

from .data import RecordDataset

SAMPLES = 480


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    print(f"name={__name__} package={__package__} arguments={sys.argv[1:]}", flush=True)

    torch.manual_seed(0)
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_loader = DataLoader(RecordDataset(SAMPLES), batch_size=16, shuffle=True)
    for epoch in range(options.epochs):
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
