"""An image classifier: a prefetcher around the loader, and a transform that the dataset gets after its loader."""

import csv
import os
from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

IMAGES, EPOCHS, OUTPUT = 160, 2, "output"


class ImageDataset(Dataset):
    def __init__(self, count, transform=None):
        self.samples = [(number, number % 10) for number in range(count)]
        self.transform = transform

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        seed, target = self.samples[index]
        image = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        if self.transform is not None:
            image = self.transform(image, seed)
        return image, target


class Compose:
    def __init__(self, *transforms):
        self.transforms = transforms

    def __call__(self, image, seed):
        for transform in self.transforms:
            image = transform(image, seed)
        return image


class Crop:
    def __init__(self, size):
        self.size = size

    def __call__(self, image, seed):
        top, left = seed % (image.shape[0] - self.size), seed // 7 % (image.shape[1] - self.size)
        return image[top : top + self.size, left : left + self.size]


class ToNumpy:
    def __call__(self, image, seed):
        return np.ascontiguousarray(np.rollaxis(image, 2))


def fast_collate(batch):
    targets = torch.tensor([sample[1] for sample in batch], dtype=torch.int64)
    tensor = torch.zeros((len(batch), *batch[0][0].shape), dtype=torch.uint8)
    for number in range(len(batch)):
        tensor[number] += torch.from_numpy(batch[number][0])
    return tensor, targets


class PrefetchLoader:
    """Hands over each batch one step late, normalised, so that a device could copy meanwhile."""

    def __init__(self, loader, mean=0.5, std=0.25):
        self.loader, self.mean, self.std = loader, mean * 255, std * 255

    def __iter__(self):
        first = True
        for next_input, next_target in self.loader:
            next_input = next_input.float().sub_(self.mean).div_(self.std)
            if not first:
                yield image, target  # noqa: F821
            first = False
            image, target = next_input, next_target
        yield image, target

    def __len__(self):
        return len(self.loader)

    @property
    def sampler(self):
        return self.loader.sampler

    @property
    def dataset(self):
        return self.loader.dataset


def create_loader(dataset, batch_size, is_training, num_workers=1):
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=is_training,
        num_workers=num_workers,
        collate_fn=fast_collate,
        pin_memory=False,
        drop_last=is_training,
        persistent_workers=num_workers > 0,
    )
    dataset.transform = Compose(Crop(32), ToNumpy())
    return PrefetchLoader(loader)


def validate(model, loader):
    model.eval()
    correct = total = 0
    with torch.no_grad():
        for image, target in loader:
            correct += (model(image).argmax(1) == target).sum().item()
            total += len(target)
    model.train()
    return OrderedDict(top1=100.0 * correct / total)


def main():
    torch.manual_seed(42)
    os.makedirs(OUTPUT, exist_ok=True)
    loader_train = create_loader(ImageDataset(IMAGES), 16, True)
    loader_eval = create_loader(ImageDataset(40), 20, False)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    for epoch in range(EPOCHS):
        losses = []
        for image, target in loader_train:
            loss = nn.functional.cross_entropy(model(image), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        metrics = validate(model, loader_eval)
        print(f"epoch {epoch} loss={np.mean(losses):.6f} top1={metrics['top1']:.3f}", flush=True)
        is_new = not os.path.exists(f"{OUTPUT}/summary.csv")
        with open(f"{OUTPUT}/summary.csv", "a") as file:
            writer = csv.DictWriter(file, ["epoch", "loss", "top1"])
            if is_new:
                writer.writeheader()
            writer.writerow({"epoch": epoch, "loss": f"{np.mean(losses):.6f}", **metrics})
        torch.save(model.state_dict(), f"{OUTPUT}/tmp.pth.tar")
        os.replace(f"{OUTPUT}/tmp.pth.tar", f"{OUTPUT}/last.pth.tar")


if __name__ == "__main__":
    main()
