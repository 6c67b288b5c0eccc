"""A diffusion trainer: accelerate around an endless generator over the loader, with a milestone every few steps."""

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset

IMAGES, STEPS, SAVE_EVERY = 64, 24, 8
RESULTS = Path("results")


def cycle(loader):
    while True:
        yield from loader


class Pictures(Dataset):
    def __init__(self, folder, image_size):
        self.folder, self.image_size = folder, image_size
        self.paths = sorted(folder.glob("**/*.npy"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = np.load(self.paths[index]).astype(np.float32) / 255
        begin = (image.shape[1] - self.image_size) // 2
        return torch.from_numpy(image[:, begin : begin + self.image_size, begin : begin + self.image_size].copy())


class Trainer:
    def __init__(self, model, folder, batch_size, accumulate):
        self.accelerator = Accelerator(cpu=True)
        self.model, self.accumulate, self.step = model, accumulate, 0
        self.noise = torch.Generator().manual_seed(0)
        dataset = Pictures(folder, 24)
        loader = DataLoader(dataset, batch_size=batch_size, shuffle=True, pin_memory=True, num_workers=1)
        loader = self.accelerator.prepare(loader)
        self.dl = cycle(loader)
        self.opt = torch.optim.Adam(model.parameters(), lr=1e-3)
        RESULTS.mkdir(exist_ok=True)
        self.model, self.opt = self.accelerator.prepare(self.model, self.opt)

    def save(self, milestone):
        data = {"step": self.step, "model": self.accelerator.get_state_dict(self.model)}
        torch.save(data, str(RESULTS / f"model-{milestone}.pt"))
        np.save(RESULTS / f"sample-{milestone}.npy", np.full((2, 2), milestone))

    def train(self):
        while self.step < STEPS:
            total = 0.0
            for _ in range(self.accumulate):
                data = next(self.dl)
                noise = torch.randn(data.shape, generator=self.noise)
                loss = (self.model(data + 0.1 * noise) - noise).square().mean() / self.accumulate
                total += loss.item()
                self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
            self.opt.step()
            self.opt.zero_grad()
            self.step += 1
            if self.step % 4 == 0:
                print(f"step {self.step} loss={total:.6f}", flush=True)
            if self.step % SAVE_EVERY == 0:
                self.save(self.step // SAVE_EVERY)


def main():
    torch.manual_seed(0)
    folder = Path("pictures")
    if not folder.exists():
        folder.mkdir()
        for number in range(IMAGES):
            np.save(
                folder / f"{number}.npy", np.random.default_rng(number).integers(0, 256, (3, 32, 32), dtype=np.uint8)
            )
    Trainer(nn.Conv2d(3, 3, 3, padding=1), folder, 8, 2).train()


if __name__ == "__main__":
    main()
