"""Segmentation: a random split, page-locked loaders for both parts, validation in the middle of an epoch."""

import logging
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split

IMAGES, EPOCHS, BATCH = 80, 2, 4
DIR_IMG, DIR_MASK, DIR_CHECKPOINT = Path("data/imgs"), Path("data/masks"), Path("checkpoints")


class BasicDataset(Dataset):
    def __init__(self, images_dir, masks_dir, scale):
        self.images_dir, self.masks_dir, self.scale = images_dir, masks_dir, scale
        self.ids = sorted(file.stem for file in images_dir.iterdir())
        self.mask_values = sorted(
            {int(v) for name in self.ids[:4] for v in np.unique(np.load(masks_dir / f"{name}.npy"))}
        )

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        name = self.ids[index]
        image, mask = np.load(self.images_dir / f"{name}.npy"), np.load(self.masks_dir / f"{name}.npy")
        every = int(1 / self.scale)
        return {
            "image": torch.as_tensor((image[:, ::every, ::every] / 255).copy()).float().contiguous(),
            "mask": torch.as_tensor(mask[::every, ::every].copy()).long().contiguous(),
        }


@torch.inference_mode()
def evaluate(net, loader):
    net.eval()
    score = 0.0
    for batch in loader:
        score += (net(batch["image"]).argmax(1) == batch["mask"]).float().mean().item()
    net.train()
    return score / max(len(loader), 1)


def train_model(model):
    dataset = BasicDataset(DIR_IMG, DIR_MASK, 0.5)
    n_val = int(len(dataset) * 0.2)
    train_set, val_set = random_split(
        dataset, [len(dataset) - n_val, n_val], generator=torch.Generator().manual_seed(0)
    )
    loader_args = dict(batch_size=BATCH, num_workers=2, pin_memory=True)
    train_loader = DataLoader(train_set, shuffle=True, **loader_args)
    val_loader = DataLoader(val_set, shuffle=False, drop_last=True, **loader_args)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4)
    global_step = 0
    for epoch in range(1, EPOCHS + 1):
        model.train()
        epoch_loss = 0.0
        for batch in train_loader:
            loss = nn.functional.cross_entropy(model(batch["image"]), batch["mask"])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            global_step += 1
            epoch_loss += loss.item()
            if global_step % (len(train_set) // (2 * BATCH)) == 0:
                print(f"step {global_step} dice={evaluate(model, val_loader):.6f}", flush=True)
        print(f"epoch {epoch} loss={epoch_loss:.6f}", flush=True)
        DIR_CHECKPOINT.mkdir(parents=True, exist_ok=True)
        torch.save({**model.state_dict(), "mask_values": dataset.mask_values}, DIR_CHECKPOINT / f"epoch{epoch}.pth")
        logging.info(f"Checkpoint {epoch} saved!")


def main():
    torch.manual_seed(0)
    if not DIR_IMG.exists():
        DIR_IMG.mkdir(parents=True)
        DIR_MASK.mkdir(parents=True)
        for number in range(IMAGES):
            generator = np.random.default_rng(number)
            np.save(DIR_IMG / f"{number:03d}.npy", generator.integers(0, 256, (3, 48, 48), dtype=np.uint8))
            np.save(DIR_MASK / f"{number:03d}.npy", generator.integers(0, 2, (48, 48), dtype=np.uint8))
    train_model(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)))


if __name__ == "__main__":
    main()
