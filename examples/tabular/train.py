"""Trains on the rows of a pandas DataFrame, in the way most scripts for tables are written.

What it shows: taking a row out of a DataFrame costs far more than what the network does with it, so the training step
mostly waits, although all data is in memory. It needs pandas: `pip install pandas`.

    python examples/tabular/train.py              train as it is; the table is made in memory
    plumb tune examples/tabular/train.py          find the best configuration, and see what a row costs
    plumb run examples/tabular/train.py           train on the plan that the tuning wrote
"""

import argparse
import time

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

AREAS = ["north", "east", "south", "west"]
FUELS = ["wood", "gas", "oil", "district heat"]
MEASURES = ["size", "age", "rooms", "insulation"]


def make_houses(count, seed=20240229):
    """Return a table of houses, and what it takes to heat each."""
    rng = np.random.default_rng(seed)
    houses = pd.DataFrame(
        {
            "area": rng.choice(AREAS, count),
            "fuel": rng.choice(FUELS, count),
            "size": rng.uniform(40, 250, count),
            "age": rng.integers(0, 120, count),
            "rooms": rng.integers(1, 9, count),
            "insulation": rng.uniform(0, 1, count),
        }
    )
    loss = houses["size"] * (1.5 - houses["insulation"]) * (1 + houses["age"] / 100)
    houses["heating"] = loss * houses["area"].map({"north": 1.3, "east": 1.1, "south": 0.8, "west": 1.0})
    return houses


class HouseDataset(Dataset):
    def __init__(self, houses):
        self.houses = houses
        self.mean, self.spread = houses[MEASURES].mean(), houses[MEASURES].std()

    def __len__(self):
        return len(self.houses)

    def __getitem__(self, index):
        house = self.houses.iloc[index]
        measures = (house[MEASURES] - self.mean) / self.spread
        kinds = torch.tensor([AREAS.index(house["area"]), FUELS.index(house["fuel"])])
        return torch.tensor(measures.to_numpy(dtype=np.float32)), kinds, np.float32(house["heating"] / 100)


class HeatingModel(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.area, self.fuel = nn.Embedding(len(AREAS), 4), nn.Embedding(len(FUELS), 4)
        self.layers = nn.Sequential(nn.Linear(len(MEASURES) + 8, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, measures, kinds):
        inputs = torch.cat([measures, self.area(kinds[:, 0]), self.fuel(kinds[:, 1])], dim=1)
        return self.layers(inputs).squeeze(1)


def main():
    parser = argparse.ArgumentParser(description="Train a small network on the rows of a table.")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--houses", type=int, default=2_000)
    parser.add_argument("--workers", type=int, default=0, help="num_workers of the loader")
    args = parser.parse_args()
    torch.manual_seed(0)
    # The step stands in for an accelerator's, and leaves the cores to the data.
    torch.set_num_threads(1)

    dataset = HouseDataset(make_houses(args.houses))
    train_loader = DataLoader(dataset, batch_size=64, shuffle=True, num_workers=args.workers)
    model = HeatingModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(1, args.epochs + 1):
        total, started = 0.0, time.perf_counter()
        for measures, kinds, heating in train_loader:
            loss = nn.functional.mse_loss(model(measures, kinds), heating)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        rate = len(dataset) / (time.perf_counter() - started)
        print(f"epoch {epoch}: loss {total / len(train_loader):.3f}, {rate:,.0f} rows/s", flush=True)


if __name__ == "__main__":
    main()
