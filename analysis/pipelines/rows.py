"""Rows of a table in an HDF5 file, read one by one: little work, much of it Python's, and a lock in the library."""

import os
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.utils.data import Dataset

from analysis.pipelines.pipeline import Pipeline, made_once

_ROWS, _NUMBERS, _CATEGORIES = 200_000, 64, 12


class Rows(Dataset):
    """A row's numbers, their logarithms scaled, and its categories; each process opens the file for itself."""

    def __init__(self, path):
        self.path = path
        self._pid = None
        with h5py.File(path) as file:
            self.length = len(file["numbers"])
            self.mean, self.std = file["mean"][:], file["std"][:]

    def __getstate__(self):
        return {**self.__dict__, "_file": None, "_pid": None}

    def file(self):
        """Return the file as this process has opened it."""
        if self._pid != os.getpid():
            self._file, self._pid = h5py.File(self.path), os.getpid()
        return self._file

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        file = self.file()
        numbers = (np.log1p(file["numbers"][index]) - self.mean) / self.std
        return torch.from_numpy(numbers), torch.from_numpy(file["categories"][index]).long(), index % 2


def _fill(folder):
    draws = np.random.default_rng(0)
    numbers = draws.lognormal(0, 1, (_ROWS, _NUMBERS)).astype(np.float32)
    logarithms = np.log1p(numbers)
    with h5py.File(folder / "rows.h5", "w") as file:
        file.create_dataset("numbers", data=numbers, chunks=(256, _NUMBERS))
        file.create_dataset("categories", data=draws.integers(0, 1000, (_ROWS, _CATEGORIES), dtype=np.int32))
        file["mean"], file["std"] = logarithms.mean(0), logarithms.std(0)


def make(folder: Path) -> Pipeline:
    """256 rows a batch."""
    path = made_once(folder / "rows", _fill) / "rows.h5"
    return Pipeline("tabular rows", "Python and the library's lock", Rows(path), 256, is_deterministic=True)
