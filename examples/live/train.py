"""Trains on small images with a loader that tunes itself while the training goes on: `plumb.DataLoader(tune="live")`.

What it shows: there is no tuning before the training. Each batch that the loader measures is one that the training
uses, in the order of torch's loader, and the later epochs run on the fastest configuration that was found.

    python examples/live/train.py               train and tune; see how the rate of the epochs changes
    PLUMB=off python examples/live/train.py     train with torch's own loader
"""

import argparse
import time
import zlib

import numpy as np
import torch
from torch import nn

import plumb

SIZE, CROP = 144, 128
CLASSES = 4


def make_images(count, seed=20240229):
    """Return compressed images, each with stripes in noise, and their classes: the directions of the stripes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    classes = rng.integers(0, CLASSES, count)
    images = []
    for number in classes:
        angle = np.pi * number / CLASSES
        stripes = np.sin((x * np.cos(angle) + y * np.sin(angle)) / 3 + rng.uniform(0, 6))
        noise = rng.integers(-40, 41, (SIZE, SIZE, 3))
        pixels = (128 + 60 * stripes[:, :, None] + noise).astype(np.uint8)
        images.append(zlib.compress(pixels.tobytes(), 1))
    return images, classes.tolist()


def decode(image):
    return np.frombuffer(zlib.decompress(image), dtype=np.uint8).reshape(SIZE, SIZE, 3)


def random_crop(pixels):
    top, left = torch.randint(SIZE - CROP + 1, (2,)).tolist()
    return pixels[top : top + CROP, left : left + CROP]


def random_brightness(pixels):
    return np.clip(pixels * np.float32(torch.empty(()).uniform_(0.6, 1.4)), 0, 255)


def normalize(pixels):
    return torch.from_numpy((pixels - pixels.mean()) / (pixels.std() + 1e-3)).permute(2, 0, 1).contiguous()


class ImageDataset(torch.utils.data.Dataset):
    def __init__(self, count):
        self.images, self.classes = make_images(count)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return normalize(random_brightness(random_crop(decode(self.images[index])))), self.classes[index]


def main():
    parser = argparse.ArgumentParser(description="Train a small network to tell the direction of stripes.")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=1_500)
    args = parser.parse_args()
    torch.manual_seed(0)
    # The step stands in for an accelerator's, and leaves the cores to the data.
    torch.set_num_threads(1)

    dataset = ImageDataset(args.images)
    loader = plumb.DataLoader(dataset, batch_size=32, shuffle=True, tune="live")
    model = nn.Sequential(
        nn.Conv2d(3, 16, kernel_size=8, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(1, args.epochs + 1):
        total, started = 0.0, time.perf_counter()
        for images, classes in loader:
            loss = nn.functional.cross_entropy(model(images), classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        rate = len(dataset) / (time.perf_counter() - started)
        print(f"epoch {epoch}: loss {total / len(loader):.3f}, {rate:,.0f} images/s", flush=True)


if __name__ == "__main__":
    main()
