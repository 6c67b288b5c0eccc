"""Three batches an epoch, and a schedule of exactly as many steps as the script means to take: one more raises."""

import io

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

BATCHES, BATCH_SIZE = 3, 64
EPOCHS = 5


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


def main():
    torch.manual_seed(0)
    train_loader = DataLoader(JpegDataset(BATCHES * BATCH_SIZE), batch_size=BATCH_SIZE, shuffle=True)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=EPOCHS * len(train_loader))
    for epoch in range(EPOCHS):
        total = 0.0
        for images, labels in train_loader:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.item()
        print(f"epoch {epoch} done loss={total / len(train_loader):.6f}", flush=True)


if __name__ == "__main__":
    main()
