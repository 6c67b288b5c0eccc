"""timm makes the loader, wraps it in one that normalises batches on the device, and a loop takes it by hand."""

import numpy as np
import torch
from PIL import Image
from timm.data import create_loader
from torch import nn
from torch.utils.data import Dataset

SAMPLES, EPOCHS = 512, 2


class Pictures(Dataset):
    """Timm sets the transform."""

    transform = None

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        return self.transform(Image.fromarray(pixels)), index % 4


def main():
    torch.manual_seed(0)
    train_loader = create_loader(
        Pictures(),
        input_size=(3, 64, 64),
        batch_size=16,
        is_training=True,
        num_workers=0,
        persistent_workers=False,
        device=torch.device("cpu"),
        use_prefetcher=True,
    )
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.Flatten(), nn.LazyLinear(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for epoch in range(1, EPOCHS + 1):
        for images, labels in train_loader:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch} done loss={loss.item():.4f}", flush=True)


if __name__ == "__main__":
    main()
