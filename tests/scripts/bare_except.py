"""Every step, the taking of its batch included, stands in a try with a bare except that hides whatever happens."""

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

for epoch in range(EPOCHS):
    total = 0.0
    batches = iter(train_loader)
    for _ in range(len(train_loader)):
        try:
            images, labels = next(batches)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
        except:  # noqa: E722, PERF203
            pass
    print(f"epoch {epoch} done loss={total / len(train_loader):.6f}", flush=True)
