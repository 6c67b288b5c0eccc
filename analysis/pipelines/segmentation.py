"""Large pictures with outlined objects, as for Mask R-CNN: sizes differ, and so does the number of objects."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.utils.data import Dataset

from analysis.pipelines.pictures import write_pictures
from analysis.pipelines.pipeline import Pipeline, made_once

_CAMERAS = {"wide": (1280, 960), "tall": (768, 1024), "small": (640, 480)}
_FILES, _OBJECTS_AT_MOST, _CORNERS = 64, 16, 24
_SHORTER_SIDES, _LONGER_SIDE = (480, 512, 544, 576, 608, 640), 1066
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Outlined(Dataset):
    """A picture resized to a random scale and maybe flipped, with a box, a mask and a label for each object."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.annotations = json.loads((self.folder / "annotations.json").read_text())

    def __len__(self):
        return len(self.annotations)

    def __getitem__(self, index):
        annotation = self.annotations[index]
        image = Image.open(self.folder / annotation["file"]).convert("RGB")
        shorter = random.choice(_SHORTER_SIDES)
        scale = min(shorter / min(image.size), _LONGER_SIDE / max(image.size))
        width, height = round(image.width * scale), round(image.height * scale)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        outlines = [np.array(outline, dtype=np.float32) * scale for outline in annotation["outlines"]]
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            outlines = [outline * (-1, 1) + (width, 0) for outline in outlines]
        masks = np.stack([rasterised(outline, width, height) for outline in outlines])
        boxes = np.stack([np.concatenate([outline.min(0), outline.max(0)]) for outline in outlines])
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255
        return (pixels - _MEAN) / _STD, {
            "boxes": torch.from_numpy(boxes).float(),
            "masks": torch.from_numpy(masks),
            "labels": torch.tensor(annotation["labels"]),
        }


def rasterised(outline, width, height):
    """Return the pixels within an outline."""
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).polygon([tuple(corner) for corner in outline.tolist()], fill=1)
    return np.array(mask)


def padded(samples):
    """Return the pictures in one tensor, as large as the largest; targets stay a list as detection models take them."""
    height = max(image.shape[1] for image, _ in samples)
    width = max(image.shape[2] for image, _ in samples)
    images = torch.zeros(len(samples), 3, height, width)
    for place, (image, _) in zip(images, samples, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return images, [target for _, target in samples]


def _fill(folder):
    annotations = []
    for camera, (width, height) in _CAMERAS.items():
        (folder / camera).mkdir()
        write_pictures(folder / camera, _FILES, width, height)
        draws = np.random.default_rng(width)
        for path in sorted((folder / camera).glob("*.jpg")):
            count = int(draws.integers(1, _OBJECTS_AT_MOST))
            outlines = [_outline(draws, width, height) for _ in range(count)]
            labels = draws.integers(1, 81, count).tolist()
            annotations.append({"file": f"{camera}/{path.name}", "outlines": outlines, "labels": labels})
    (folder / "annotations.json").write_text(json.dumps(annotations))


def _outline(draws, width, height):
    angles = np.sort(draws.uniform(0, 2 * np.pi, _CORNERS))
    size = draws.uniform(0.03, 0.3) * min(width, height)
    radii = size * draws.uniform(0.6, 1.0, _CORNERS)
    centre = draws.uniform(0.3, 0.7, 2) * (width, height)
    corners = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return corners.round(1).tolist()


def make(folder: Path) -> Pipeline:
    """Pictures of three cameras, four a batch."""
    dataset = Outlined(made_once(folder / "segmentation", _fill))
    return Pipeline("instance segmentation", "the CPU", dataset, batch_size=4, collate_fn=padded)
