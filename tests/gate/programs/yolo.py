"""A detector: an endless loader that is started in its constructor, mosaics, and a cache of labels beside the data."""

import csv
import random
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SIDE, IMAGES, EPOCHS = 32, 48, 3
DATA, RUN = Path("coco"), Path("runs/train/exp")


class RepeatSampler:
    """Goes through a batch sampler again and again."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __iter__(self):
        while True:
            yield from iter(self.sampler)


class InfiniteDataLoader(DataLoader):
    """Keeps its workers from epoch to epoch."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "batch_sampler", RepeatSampler(self.batch_sampler))
        self.iterator = super().__iter__()

    def __len__(self):
        return len(self.batch_sampler.sampler)

    def __iter__(self):
        for _ in range(len(self)):
            yield next(self.iterator)


class LoadImagesAndLabels(Dataset):
    def __init__(self, folder, augment):
        self.im_files = sorted(folder.glob("*.npy"))
        cache = folder.with_suffix(".cache")
        if cache.exists():
            self.labels = torch.load(cache)
        else:
            self.labels = [self.read_label(number) for number in range(len(self.im_files))]
            torch.save(self.labels, cache)
        self.augment = augment

    def read_label(self, number):
        generator = random.Random(number)
        boxes = [[generator.randrange(3)] + [generator.random() for _ in range(4)] for _ in range(number % 4)]
        return torch.tensor(boxes).reshape(-1, 5)

    def __len__(self):
        return len(self.im_files)

    def load_image(self, index):
        return np.load(self.im_files[index]).astype(np.float32) / 255

    def load_mosaic(self, index):
        generator = random.Random(index)
        others = [index, *generator.choices(range(len(self)), k=3)]
        tiles = [self.load_image(other)[:, ::2, ::2] for other in others]
        top, bottom = np.concatenate(tiles[:2], 2), np.concatenate(tiles[2:], 2)
        return np.concatenate([top, bottom], 1), torch.cat([self.labels[other] for other in others])

    def __getitem__(self, index):
        if self.augment:
            image, labels = self.load_mosaic(index)
        else:
            image, labels = self.load_image(index), self.labels[index]
        out = torch.zeros(len(labels), 6)
        out[:, 1:] = labels
        return torch.from_numpy(np.ascontiguousarray(image)), out, str(self.im_files[index])

    @staticmethod
    def collate_fn(batch):
        images, labels, paths = zip(*batch)
        for number, label in enumerate(labels):
            label[:, 0] = number
        return torch.stack(images, 0), torch.cat(labels, 0), paths


def seed_worker(worker_id):
    seed = torch.initial_seed() % 2**32
    np.random.seed(seed)
    random.seed(seed)


def create_dataloader(folder, batch_size, augment=False, shuffle=False, workers=2):
    dataset = LoadImagesAndLabels(folder, augment)
    generator = torch.Generator()
    generator.manual_seed(6148914691236517205)
    return InfiniteDataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=workers,
        collate_fn=LoadImagesAndLabels.collate_fn,
        worker_init_fn=seed_worker,
        generator=generator,
    ), dataset


def validate(model, loader):
    model.eval()
    with torch.no_grad():
        scores = [model(images).square().mean().item() + len(targets) / 100 for images, targets, _ in loader]
    model.train()
    return sum(scores) / len(scores)


def write_data():
    DATA.mkdir()
    for name, count in (("train", IMAGES), ("val", 12)):
        folder = DATA / name
        folder.mkdir()
        for number in range(count):
            image = np.random.default_rng(number).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)
            np.save(folder / f"{number:04d}.npy", image)


def main():
    torch.manual_seed(0)
    if not DATA.exists():
        write_data()
    RUN.mkdir(parents=True, exist_ok=True)
    train_loader, _ = create_dataloader(DATA / "train", 8, augment=True, shuffle=True)
    val_loader = create_dataloader(DATA / "val", 4)[0]
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.SiLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    best = float("inf")
    for epoch in range(EPOCHS):
        mean = torch.zeros(1)
        for number, (images, targets, paths) in enumerate(train_loader):
            loss = (model(images) - targets[:, 1:].mean() - len(paths) / 100).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            mean = (mean * number + loss.detach()) / (number + 1)
        fitness = validate(model, val_loader)
        print(f"epoch {epoch} loss={mean.item():.6f} val={fitness:.6f}", flush=True)
        with open(RUN / "results.csv", "a", newline="") as file:
            csv.writer(file).writerow([epoch, f"{mean.item():.6f}", f"{fitness:.6f}"])
        torch.save({"epoch": epoch, "model": model.state_dict()}, RUN / "last.pt")
        if fitness < best:
            best = fitness
            torch.save({"epoch": epoch, "model": model.state_dict()}, RUN / "best.pt")


if __name__ == "__main__":
    main()
