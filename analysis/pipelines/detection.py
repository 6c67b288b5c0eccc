"""Photographs with boxes, as for SSD: a crop that keeps some box, colours distorted, and many small operators."""

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch.utils.data import Dataset

from analysis.pipelines.pictures import example_paths
from analysis.pipelines.pipeline import Pipeline

_SIDE, _BOXES_AT_MOST, _TRIES = 300, 8, 50
_OVERLAPS = (None, 0.1, 0.3, 0.5, 0.7, 0.9)
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Boxed(Dataset):
    """A cropped and distorted photograph of a fixed size, and its boxes as shares of its sides."""

    def __init__(self, paths):
        draws = np.random.default_rng(0)
        self.paths = paths
        self.boxes = [_some_boxes(draws) for _ in paths]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image, boxes = Image.open(self.paths[index]).convert("RGB"), self.boxes[index]
        image, boxes = cropped(image, boxes)
        image = distorted(image).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255
        return (pixels - _MEAN) / _STD, torch.from_numpy(boxes).float()


def cropped(image, boxes):
    """Return a random part that overlaps some box by enough, and the boxes whose centres are in it."""
    while True:
        overlap = random.choice(_OVERLAPS)
        if overlap is None:
            return image, boxes
        for _ in range(_TRIES):
            width, height = random.uniform(0.3, 1), random.uniform(0.3, 1)
            if not 0.5 < width / height < 2:
                continue
            left, top = random.uniform(0, 1 - width), random.uniform(0, 1 - height)
            part = np.array([left, top, left + width, top + height])
            if overlaps(boxes, part).max() < overlap:
                continue
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            kept = boxes[((centres > part[:2]) & (centres < part[2:])).all(1)]
            if len(kept):
                size = np.array([width, height, width, height])
                moved = ((kept - part[[0, 1, 0, 1]]) / size).clip(0, 1)
                sides = (image.width, image.height, image.width, image.height)
                return image.crop(tuple(int(share * side) for share, side in zip(part, sides, strict=True))), moved


def overlaps(boxes, part):
    """Return the area that each box has in common with `part`, over that of both together."""
    common = np.clip(np.minimum(boxes[:, 2:], part[2:]) - np.maximum(boxes[:, :2], part[:2]), 0, None).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return common / (areas + (part[2:] - part[:2]).prod() - common)


def distorted(image):
    """Brightness, contrast and saturation, each changed half of the time."""
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        if random.random() < 0.5:
            image = enhancer(image).enhance(random.uniform(0.7, 1.3))
    return image


def together(samples):
    """Return the pictures in one tensor, and the boxes as a list."""
    return torch.stack([image for image, _ in samples]), [boxes for _, boxes in samples]


def _some_boxes(draws):
    count = int(draws.integers(1, _BOXES_AT_MOST))
    corners, sizes = draws.uniform(0, 0.6, (count, 2)), draws.uniform(0.1, 0.4, (count, 2))
    return np.concatenate([corners, corners + sizes], axis=1)


def make(folder: Path) -> Pipeline:
    """Return the pipeline of the images example's files, 32 a batch; it writes nothing to `folder`."""
    return Pipeline("single-shot detection", "the CPU", Boxed(example_paths()), 32, collate_fn=together)
