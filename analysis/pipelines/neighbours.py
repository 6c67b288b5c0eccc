"""A batch of nodes of a large graph with some of their neighbours, and some of theirs: all the work is in collate."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from analysis.pipelines.pipeline import Pipeline, made_once

_NODES, _EDGES, _FEATURES, _FANOUT = 200_000, 3_000_000, 64, (10, 5)


class Seeds(Dataset):
    """The nodes to learn from, by number."""

    def __len__(self):
        return _NODES

    def __getitem__(self, index):
        return index


class MeasuredSamples:
    """Collates seeds: samples neighbours hop by hop, numbers the nodes anew, and gathers their features."""

    def __init__(self, folder):
        folder = Path(folder)
        self.starts = np.load(folder / "starts.npy")
        self.ends = np.load(folder / "ends.npy", mmap_mode="r")
        self.features = np.load(folder / "features.npy", mmap_mode="r")
        self.labels = np.load(folder / "labels.npy")

    def __call__(self, seeds):
        frontier, edges = np.array(seeds), []
        for fanout in _FANOUT:
            begins, counts = self.starts[frontier], np.diff(self.starts)[frontier]
            places = begins[:, None] + (np.random.random((len(frontier), fanout)) * counts[:, None]).astype(np.int64)
            has_any = counts > 0
            neighbours = self.ends[places[has_any]]
            edges.append((neighbours.ravel(), np.repeat(frontier[has_any], fanout)))
            frontier = np.unique(neighbours)
        sources, targets = (np.concatenate(side) for side in zip(*edges, strict=True))
        nodes, numbers = np.unique(np.concatenate([seeds, sources, targets]), return_inverse=True)
        pairs = numbers[len(seeds) :].reshape(2, -1)
        return (
            torch.from_numpy(self.features[nodes]),
            torch.from_numpy(pairs),
            torch.from_numpy(numbers[: len(seeds)]),
            torch.from_numpy(self.labels[seeds]),
        )


def _fill(folder):
    draws = np.random.default_rng(0)
    # A few nodes have very many neighbours, as in real graphs.
    popularity = 1 / np.arange(1, _NODES + 1) ** 0.5
    targets = draws.permutation(_NODES)[draws.choice(_NODES, _EDGES, p=popularity / popularity.sum())]
    sources = draws.integers(0, _NODES, _EDGES)
    order = np.argsort(targets, kind="stable")
    np.save(folder / "starts.npy", np.searchsorted(targets[order], np.arange(_NODES + 1)))
    np.save(folder / "ends.npy", sources[order])
    np.save(folder / "features.npy", draws.standard_normal((_NODES, _FEATURES), dtype=np.float32))
    np.save(folder / "labels.npy", draws.integers(0, 40, _NODES))


def make(folder: Path) -> Pipeline:
    """256 nodes a batch, ten neighbours of each and five of theirs."""
    graph = MeasuredSamples(made_once(folder / "neighbours", _fill))
    return Pipeline("neighbour sampling", "collate", Seeds(), 256, collate_fn=graph)
