"""Imports a module that lies beside it, and prints how it was started: sys.argv, __file__, __name__, sys.path[0]."""

import argparse
import os
import sys

import helper_module
import torch
from torch import nn
from torch.utils.data import DataLoader

SAMPLES = 1200


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--output", default="runs/first")
    parser.add_argument("rest", nargs="*")
    options = parser.parse_args()

    print(f"argv={sys.argv}")
    print(f"file={__file__}")
    print(f"name={__name__} package={__package__!r} main={sys.modules['__main__'].__dict__ is globals()}")
    print(f"path0={sys.path[0]} helper={helper_module.__file__}")
    print(f"cwd={os.getcwd()} output={options.output} rest={options.rest}", flush=True)

    torch.manual_seed(0)
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_loader = DataLoader(helper_module.RecordDataset(SAMPLES), batch_size=16, shuffle=True)
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
