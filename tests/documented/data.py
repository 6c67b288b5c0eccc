"""Datasets that several cases use."""

from __future__ import annotations

import os

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info


class Numbers(Dataset):
    """Each index is its sample."""

    def __init__(self, length=10):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor(index)


class Failing(Numbers):
    """Raises what it was given at one index."""

    def __init__(self, error, at=5):
        super().__init__()
        self.error, self.at = error, at

    def __getitem__(self, index):
        if index == self.at:
            raise self.error
        return torch.tensor(index)


class Stream(IterableDataset):
    """Numbers in order; with `sharded`, each worker has its own."""

    def __init__(self, length=10, sharded=True):
        self.length, self.sharded = length, sharded

    def __iter__(self):
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info and self.sharded else (0, 1)
        return (torch.tensor(number) for number in range(first, self.length, step))


class SizedStream(Stream):
    """A stream that says a length."""

    def __len__(self):
        return self.length


class Once:
    """Something that happens in one process and never again in any: the first to ask is told so."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self):
        try:
            os.mkdir(self.folder)
        except FileExistsError:
            return False
        return True
