"""What tracing gets right and what it costs: operators' times against untraced samples, on pictures made for this.

    python -m analysis.trace_cost [--samples N] [--rounds N]

Prints, for each round, the sum of the operators' times beside the untraced time of a sample from the same interleaved
run, and at the end what a sample takes while its calls are recorded: with every call, and with the operators alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from plumb.profile.operators import Timing
from plumb.trace import Pipeline, trace
from plumb.trace.processors import measure, select
from plumb.trace.recorder import SAMPLE, Node
from plumb.trace.rewrite import Rewriter

PICTURES = 64
SIZE = (500, 375)
CROP = 224


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """JPEG files of about 500x375 pixels: decode, random crop and flip, to a normalised tensor."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.jpg"))
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = Image.open(self.paths[index]).convert("RGB")
        picture = self.cropped(picture)
        if self.random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        values = pixels.to(torch.float32).div(255)
        return values.sub(0.45).div(0.22), index % 10

    def cropped(self, picture: Image.Image) -> Image.Image:
        width = int(self.random.integers(CROP, SIZE[0]))
        height = int(self.random.integers(CROP, SIZE[1]))
        left = int(self.random.integers(0, SIZE[0] - width + 1))
        top = int(self.random.integers(0, SIZE[1] - height + 1))
        box = (left, top, left + width, top + height)
        return picture.resize((CROP, CROP), Image.Resampling.BILINEAR, box=box)


def write_pictures(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(PICTURES):
        coarse = generator.integers(0, 255, (SIZE[1] // 8, SIZE[0] // 8, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)
        smooth.save(folder / f"{number:03d}.jpg", quality=90)


def recorded_loads(dataset: Pictures) -> dict[str, Callable[[int], Any]]:
    """A function that loads a sample for each way: plain, with every call recorded, with the operators alone."""
    root, rewriter = Node(None, SAMPLE, "sample", ""), Rewriter()
    every = Timing(root, rewriter)
    with every:
        every.enter(SAMPLE, dataset.__getitem__, 0)
    operators = [node for node in root.walk() if node.function is None and node.parent is not None]
    large = sorted(operators, key=lambda node: -every.seconds_of(node))[:8]
    alone = Timing(root, rewriter, select(large, whole=True))

    def load(recorder: Timing) -> Callable[[int], Any]:
        def run(index: int) -> Any:
            with recorder:
                return recorder.enter(SAMPLE, dataset.__getitem__, index)

        return run

    return {"untraced": dataset.__getitem__, "every call": load(every), "operators alone": load(alone)}
