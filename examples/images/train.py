"""Trains a small network on JPEG files, in the way most image training scripts are written.

What it shows: the whole cost of an image (read, decode, crop, resize, normalise) is paid by the training process
itself, because `num_workers` is 0 by default, so the training step mostly waits for its data.

    python examples/images/train.py                  train as it is; the first run writes 2,000 images (136 MB)
    python examples/images/train.py --workers 2      the same, with a number of workers that you guess
    plumb tune examples/images/train.py              find the best configuration, and see why it is the best

Without a GPU, `--step-ms` stands in for the time that an accelerator needs for one step.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from make_images import DEFAULT_FOLDER, make_images
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def load_image(path):
    with open(path, "rb") as file:
        return Image.open(file).convert("RGB")


def random_resized_crop(image, size=224, scale=(0.25, 1.0)):
    width, height = image.size
    side = int((width * height * random.uniform(*scale)) ** 0.5)
    side = min(side, width, height)
    left, top = random.randint(0, width - side), random.randint(0, height - side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def center_crop(image, size=224):
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def random_flip(image):
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def to_tensor(image):
    pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1).contiguous().float() / 255


def normalize(tensor):
    return (tensor - MEAN) / STD


class FolderDataset(Dataset):
    """One sub-folder for each class, as in ImageNet."""

    def __init__(self, root, train):
        self.classes = sorted(entry.name for entry in Path(root).iterdir() if entry.is_dir())
        self.samples = [
            (str(path), label)
            for label, name in enumerate(self.classes)
            for path in sorted(Path(root, name).glob("*.jpg"))
        ]
        self.train = train

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        path, label = self.samples[index]
        image = load_image(path)
        image = random_flip(random_resized_crop(image)) if self.train else center_crop(image)
        return normalize(to_tensor(image)), label


def build_model(classes):
    # The first layer skips most pixels: a step must stay cheap on the CPU cores that also prepare the data.
    return nn.Sequential(
        nn.Conv2d(3, 16, kernel_size=8, stride=16),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, kernel_size=3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def train_one_epoch(model, train_loader, optimizer, device, step_seconds):
    model.train()
    total = 0.0
    for images, labels in train_loader:
        started = time.perf_counter()
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
        time.sleep(max(0.0, step_seconds - (time.perf_counter() - started)))
    return float(total) / len(train_loader)


@torch.no_grad()
def evaluate(model, val_loader, device):
    model.eval()
    correct = 0
    for images, labels in val_loader:
        predicted = model(images.to(device)).argmax(dim=1).cpu()
        correct += (predicted == labels).sum().item()
    return correct / len(val_loader.dataset)


def parse_arguments():
    parser = argparse.ArgumentParser(description="Train a small network on folders of JPEG files.")
    parser.add_argument(
        "--data", type=Path, default=DEFAULT_FOLDER, help="a folder with train/ and val/, classes below"
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0, help="num_workers of both loaders")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument(
        "--step-ms", type=float, default=20, help="shortest time of a training step; only without a GPU"
    )
    parser.add_argument("--checkpoint", type=Path, help="where to save the model after each epoch")
    return parser.parse_args()


def main():
    args = parse_arguments()
    torch.manual_seed(0)
    random.seed(0)
    if args.data == DEFAULT_FOLDER and not args.data.exists():
        make_images(args.data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step_seconds = 0.0
    if device.type == "cpu":
        # The step stands in for an accelerator's: waiting OpenMP threads would take the cores from the data.
        torch.set_num_threads(1)
        step_seconds = args.step_ms / 1000

    train_set = FolderDataset(args.data / "train", train=True)
    val_set = FolderDataset(args.data / "val", train=False)
    train_loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True, num_workers=args.workers)
    val_loader = DataLoader(val_set, batch_size=args.batch_size, num_workers=args.workers)

    model = build_model(len(train_set.classes)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    for epoch in range(1, args.epochs + 1):
        started = time.perf_counter()
        loss = train_one_epoch(model, train_loader, optimizer, device, step_seconds)
        rate = len(train_set) / (time.perf_counter() - started)
        accuracy = evaluate(model, val_loader, device)
        print(f"epoch {epoch}: loss {loss:.3f}, accuracy {accuracy:.1%}, {rate:.0f} images/s", flush=True)
        if args.checkpoint:
            torch.save(
                {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, args.checkpoint
            )


if __name__ == "__main__":
    main()
