"""Click prediction: rows of a table, joined by a collate that makes offsets; the table is made once, as a file."""

import os
import sys

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

ROWS, TABLES = 1536, 4


class ClickDataset(Dataset):
    def __init__(self, path, split):
        with np.load(path) as data:
            cut = int(len(data["y"]) * 0.9)
            part = slice(0, cut) if split == "train" else slice(cut, None)
            self.X_int, self.X_cat, self.y = data["X_int"][part], data["X_cat"][part], data["y"][part]

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(index.start or 0, index.stop or len(self), index.step or 1)]
        return self.X_int[index], self.X_cat[index], self.y[index]

    def __len__(self):
        return len(self.y)


def collate_wrapper_offset(list_of_tuples):
    transposed = list(zip(*list_of_tuples))
    X_int = torch.log(torch.tensor(np.array(transposed[0]), dtype=torch.float) + 1)
    X_cat = torch.tensor(np.array(transposed[1]), dtype=torch.long)
    T = torch.tensor(np.array(transposed[2]), dtype=torch.float32).view(-1, 1)
    batch_size = X_cat.shape[0]
    lS_i = [X_cat[:, i] for i in range(X_cat.shape[1])]
    lS_o = [torch.arange(batch_size) for _ in range(X_cat.shape[1])]
    return X_int, torch.stack(lS_o), torch.stack(lS_i), T


class Ranking(nn.Module):
    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(50, 8, mode="sum") for _ in range(TABLES))
        self.bottom, self.top = nn.Linear(5, 8), nn.Linear(8 * (TABLES + 1), 1)

    def forward(self, dense, offsets, indices):
        found = [table(indices[k], offsets[k]) for k, table in enumerate(self.tables)]
        return torch.sigmoid(self.top(torch.cat([self.bottom(dense), *found], 1)))


def main():
    torch.manual_seed(727)
    if not os.path.exists("day_0_reordered.npz"):
        generator = np.random.default_rng(0)
        np.savez(
            "day_0_reordered.npz",
            X_int=generator.integers(0, 100, (ROWS, 5)),
            X_cat=generator.integers(0, 50, (ROWS, TABLES)),
            y=generator.integers(0, 2, ROWS),
        )
    train_data, test_data = ClickDataset("day_0_reordered.npz", "train"), ClickDataset("day_0_reordered.npz", "test")
    train_ld = DataLoader(train_data, batch_size=64, shuffle=True, num_workers=0, collate_fn=collate_wrapper_offset)
    test_ld = DataLoader(test_data, batch_size=128, shuffle=False, num_workers=0, collate_fn=collate_wrapper_offset)
    prior = TensorDataset(torch.arange(256.0)[:, None] / 256, torch.arange(256) % 2)
    prior_ld = DataLoader(prior, batch_size=32)
    dlrm = Ranking()
    optimizer = torch.optim.SGD(dlrm.parameters(), lr=0.1)
    rate = sum(y.float().mean().item() for _, y in prior_ld) / len(prior_ld)
    print(f"prior rate={rate:.6f}")
    best_acc, total = 0.0, 0.0
    for epoch in range(2):
        for j, (X, lS_o, lS_i, T) in enumerate(train_ld):
            loss = nn.functional.binary_cross_entropy(dlrm(X, lS_o, lS_i), T)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            if (j + 1) % 10 == 0:
                print(f"epoch {epoch} it {j + 1} loss={total / 10:.6f}", flush=True)
                total = 0.0
                with torch.no_grad():
                    right = [((dlrm(X, o, i) > 0.5) == (T > 0.5)).float().mean().item() for X, o, i, T in test_ld]
                if sum(right) > best_acc:
                    best_acc = sum(right)
                    torch.save({"iter": j, "state_dict": dlrm.state_dict()}, "model.pt")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
