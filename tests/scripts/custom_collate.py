"""Samples are dictionaries of uneven things, and the collate function makes a named tuple of each batch."""

import io
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

SAMPLES = 256
EPOCHS = 2


class Batch(NamedTuple):
    images: torch.Tensor
    targets: dict
    names: list


def make_jpeg(rng):
    buffer = io.BytesIO()
    pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((240, 180)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class Detections(Dataset):
    def __init__(self, count):
        rng = np.random.default_rng(0)
        self.files = [make_jpeg(rng) for _ in range(32)]
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = Image.open(io.BytesIO(self.files[index % len(self.files)])).convert("RGB").resize((32, 32))
        boxes = torch.from_numpy(np.random.default_rng(index).random((index % 5, 4), dtype=np.float32))
        return {"image": np.array(image), "boxes": boxes, "label": index % 10, "name": f"image-{index}"}


def collate(samples):
    images = torch.stack([torch.from_numpy(sample["image"]) for sample in samples])
    targets = {
        "boxes": [sample["boxes"] for sample in samples],
        "labels": torch.tensor([sample["label"] for sample in samples]),
    }
    return Batch(images.permute(0, 3, 1, 2).float() / 255, targets, [sample["name"] for sample in samples])


def main():
    torch.manual_seed(0)
    train_loader = DataLoader(Detections(SAMPLES), batch_size=16, shuffle=True, collate_fn=collate)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    for epoch in range(EPOCHS):
        total, boxes, names = 0.0, 0, set()
        for batch in train_loader:
            loss = nn.functional.cross_entropy(model(batch.images), batch.targets["labels"])
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.01 * parameter.grad
            model.zero_grad()
            total += loss.item()
            boxes += sum(len(found) for found in batch.targets["boxes"])
            names.update(batch.names)
        print(f"epoch {epoch} done loss={total / len(train_loader):.6f} boxes={boxes} names={len(names)}", flush=True)


if __name__ == "__main__":
    main()
