"""Validation is iterated first (a sanity check) and again in mid-epoch; each epoch saves a checkpoint."""

import io

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

TRAIN_SAMPLES, VAL_SAMPLES = 256, 96
EPOCHS = 2
CHECKPOINT = "checkpoint.pt"


def make_jpeg(rng):
    buffer = io.BytesIO()
    pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((240, 180)).save(buffer, "JPEG", quality=90)
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


@torch.no_grad()
def evaluate(model, val_loader, limit=None):
    model.eval()
    losses = []
    for number, (images, labels) in enumerate(val_loader):
        if limit is not None and number >= limit:
            break
        losses.append(nn.functional.cross_entropy(model(images), labels).item())
    model.train()
    return sum(losses) / len(losses)


def main():
    torch.manual_seed(0)
    train_loader = DataLoader(JpegDataset(TRAIN_SAMPLES), batch_size=16, shuffle=True)
    val_loader = DataLoader(JpegDataset(VAL_SAMPLES), batch_size=32)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    print(f"sanity check loss={evaluate(model, val_loader, limit=2):.6f}", flush=True)
    for epoch in range(EPOCHS):
        total = 0.0
        for step, (images, labels) in enumerate(train_loader):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
            if step == len(train_loader) // 2:
                print(f"middle of epoch {epoch} validation={evaluate(model, val_loader):.6f}", flush=True)
        torch.save({"epoch": epoch, "model": model.state_dict()}, CHECKPOINT)
        print(f"epoch {epoch} done loss={total / len(train_loader):.6f}", flush=True)


if __name__ == "__main__":
    main()
