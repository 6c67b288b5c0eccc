"""Tar files of small JPEGs, read from front to back: an iterable dataset that shares its files among the workers."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from analysis.pipelines.pictures import example_paths
from analysis.pipelines.pipeline import Pipeline, made_once

_SHARDS, _IMAGES, _PASSES = 12, 160, 12
_SIZE = (160, 120)


class Shards(IterableDataset):
    """Each worker reads every n-th file; an epoch passes over all several times."""

    def __init__(self, folder):
        self.paths = sorted(Path(folder).glob("*.tar"))

    def __len__(self):
        return _SHARDS * _IMAGES * _PASSES

    def __iter__(self):
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for path in self.paths[first::step] * _PASSES:
            with tarfile.open(path) as shard:
                for member in shard:
                    image = Image.open(io.BytesIO(shard.extractfile(member).read())).convert("RGB")
                    pixels = torch.from_numpy(np.array(image.resize((128, 128), Image.Resampling.BICUBIC)))
                    yield pixels.permute(2, 0, 1).float() / 255


def _fill(folder):
    images = [_small(path) for path in example_paths()[:_IMAGES]]
    for number in range(_SHARDS):
        with tarfile.open(folder / f"{number:02d}.tar", "w") as shard:
            for name, data in enumerate(images):
                member = tarfile.TarInfo(f"{name:04d}.jpg")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))


def _small(path):
    buffer = io.BytesIO()
    Image.open(path).convert("RGB").resize(_SIZE).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make(folder: Path) -> Pipeline:
    """Two workers by the user's own choice, which plumb must leave alone."""
    return Pipeline("shards", "the CPU", Shards(made_once(folder / "shards", _fill)), 32, num_workers=2)
