"""A subclass that never ends its iterator and starts it in the constructor, as YOLO's does."""

import argparse
import io

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

SAMPLES = 720
EPOCHS = 3


class _RepeatSampler:
    def __init__(self, sampler):
        self.sampler = sampler

    def __iter__(self):
        while True:
            yield from iter(self.sampler)


class InfiniteDataLoader(DataLoader):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "batch_sampler", _RepeatSampler(self.batch_sampler))
        self.iterator = super().__iter__()

    def __len__(self):
        return len(self.batch_sampler.sampler)

    def __iter__(self):
        for _ in range(len(self)):
            yield next(self.iterator)


def make_jpeg(rng):
    buffer = io.BytesIO()
    pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((480, 360)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class JpegDataset(Dataset):
    def __init__(self, count):
        rng = np.random.default_rng(0)
        self.files = [make_jpeg(rng) for _ in range(32)]
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = Image.open(io.BytesIO(self.files[index % len(self.files)])).convert("RGB").resize((32, 32))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255, index % 10


def build_dataloader(dataset, batch, workers, shuffle=True):
    generator = torch.Generator()
    generator.manual_seed(6148914691236517205)
    return InfiniteDataLoader(
        dataset=dataset,
        batch_size=min(batch, len(dataset)),
        shuffle=shuffle,
        num_workers=workers,
        generator=generator,
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(0)
    train_loader = build_dataloader(JpegDataset(SAMPLES), batch=16, workers=options.workers)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in range(EPOCHS):
        total = 0.0
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch} done loss={total / len(train_loader):.6f}", flush=True)


if __name__ == "__main__":
    main()
