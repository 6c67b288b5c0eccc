"""An endless loop takes batches with next() by hand and starts the loader again when it ends."""

import io

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

SAMPLES = 720
TOTAL_STEPS = 135


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


torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
train_loader = DataLoader(JpegDataset(SAMPLES), batch_size=16, shuffle=True)

iterator = iter(train_loader)
step, epoch, total = 0, 0, 0.0
while True:
    try:
        images, labels = next(iterator)
    except StopIteration:
        print(f"epoch {epoch} done loss={total / len(train_loader):.6f}", flush=True)
        if step >= TOTAL_STEPS:
            break
        iterator = iter(train_loader)
        epoch, total = epoch + 1, 0.0
        continue
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    step, total = step + 1, total + loss.item()
