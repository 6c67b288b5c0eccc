"""The dataset gets its transform only after the loader was made of it, as in timm."""

import io

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

SAMPLES = 720
EPOCHS = 3


def make_jpeg(rng):
    buffer = io.BytesIO()
    pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((480, 360)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class ImageDataset(Dataset):
    def __init__(self, count, transform=None):
        rng = np.random.default_rng(0)
        self.files = [make_jpeg(rng) for _ in range(32)]
        self.count = count
        self.transform = transform

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = Image.open(io.BytesIO(self.files[index % len(self.files)])).convert("RGB")
        return image if self.transform is None else self.transform(image), index % 10


class ToSmallTensor:
    def __init__(self, size):
        self.size = size

    def __call__(self, image):
        return torch.from_numpy(np.array(image.resize((self.size, self.size)))).permute(2, 0, 1).float() / 255


def create_loader(dataset, batch_size, size):
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=0)
    dataset.transform = ToSmallTensor(size)
    return loader


torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
train_loader = create_loader(ImageDataset(SAMPLES), batch_size=16, size=32)

for epoch in range(EPOCHS):
    total = 0.0
    for inputs, labels in train_loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch} done loss={total / len(train_loader):.6f}", flush=True)
