"""Layers of a library's own: a loader that is none of torch's, callbacks, and a learner that saves its model."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn


class DataLoader:
    """Batches by its own means: `create_batches`, `before_batch`, `after_batch`, as hooks."""

    def __init__(self, dataset, bs, shuffle, n_workers=2, **hooks):
        self.dataset, self.bs, self.shuffle, self.n_workers = dataset, bs, shuffle, n_workers
        self.after_item, self.after_batch = hooks.get("after_item"), hooks.get("after_batch")
        self.rng = random.Random(7)

    def __len__(self):
        return -(-len(self.dataset) // self.bs)

    def get_idxs(self):
        idxs = list(range(len(self.dataset)))
        return self.rng.sample(idxs, len(idxs)) if self.shuffle else idxs

    def create_item(self, index):
        item = self.dataset[index]
        return self.after_item(item) if self.after_item else item

    def create_batch(self, idxs):
        with ThreadPoolExecutor(self.n_workers) as pool:
            items = list(pool.map(self.create_item, idxs))
        return tuple(torch.stack(part) for part in zip(*items))

    def __iter__(self):
        idxs = self.get_idxs()
        for begin in range(0, len(idxs), self.bs):
            batch = self.create_batch(idxs[begin : begin + self.bs])
            yield self.after_batch(batch) if self.after_batch else batch


class DataLoaders:
    def __init__(self, train, valid):
        self.train, self.valid = train, valid


class Items:
    def __init__(self, first, count):
        self.first, self.count = first, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        x = torch.rand(12, generator=torch.Generator().manual_seed(self.first + index))
        return x, x.sum()


class Callback:
    def __init__(self, learn):
        self.learn = learn

    def __getattr__(self, name):
        return getattr(self.learn, name)


class Recorder(Callback):
    def after_epoch(self):
        mean = sum(self.losses) / len(self.losses)
        print(f"epoch {self.epoch} loss={mean:.6f} valid={self.learn.validate():.6f}", flush=True)


class SaveModel(Callback):
    def after_epoch(self):
        Path("models").mkdir(exist_ok=True)
        torch.save(self.model.state_dict(), "models/model.pth")


class Learner:
    def __init__(self, dls, model, loss_func, cbs):
        self.dls, self.model, self.loss_func = dls, model, loss_func
        self.opt = torch.optim.Adam(model.parameters(), lr=0.01)
        self.cbs = [callback(self) for callback in cbs]

    def __call__(self, event):
        for callback in self.cbs:
            if event in type(callback).__dict__:
                getattr(callback, event)()

    def one_batch(self, xb, yb):
        loss = self.loss_func(self.model(xb).squeeze(-1), yb)
        loss.backward()
        self.opt.step()
        self.opt.zero_grad()
        self.losses.append(loss.item())

    def validate(self):
        with torch.no_grad():
            losses = [self.loss_func(self.model(xb).squeeze(-1), yb).item() for xb, yb in self.dls.valid]
        return sum(losses) / len(losses)

    def fit(self, epochs):
        for self.epoch in range(epochs):
            self.losses = []
            for xb, yb in self.dls.train:
                self.one_batch(xb, yb)
            self("after_epoch")


def main():
    torch.manual_seed(0)
    halve = lambda batch: (batch[0] / 2, batch[1])  # noqa: E731
    dls = DataLoaders(DataLoader(Items(0, 256), 16, True, after_batch=halve), DataLoader(Items(999, 64), 32, False))
    Learner(dls, nn.Linear(12, 1), nn.functional.mse_loss, [Recorder, SaveModel]).fit(3)


if __name__ == "__main__":
    main()
