"""Trains on the signals of made-up machines with Lightning's Trainer, which iterates the loaders itself.

What it shows: plumb takes over where the Trainer trains, not in its sanity check of the validation, and tunes both
loaders. Nothing in the script is plumb's. It needs Lightning: `pip install lightning`.

    python examples/lightning/train.py            train as it is
    plumb tune examples/lightning/train.py        find the best configuration of the loaders
    plumb run examples/lightning/train.py         train on the plan that the tuning wrote
"""

import argparse
import time

import lightning
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

LENGTH = 8_192
BANDS = 64
SPEEDS = (7.0, 11.0, 19.0)


class SignalDataset(Dataset):
    """Vibrations of machines that run at one of three speeds, as energies in bands of frequency."""

    def __init__(self, count, seed):
        rng = np.random.default_rng(seed)
        self.speeds = rng.integers(0, len(SPEEDS), count)
        turns = 2 * np.pi * np.linspace(0, 1, LENGTH, dtype=np.float32)
        pure = np.stack([np.sin(speed * turns) + np.sin(4 * speed * turns) for speed in SPEEDS])
        self.signals = pure[self.speeds] + rng.normal(0, 2, (count, LENGTH)).astype(np.float32)

    def __len__(self):
        return len(self.signals)

    def __getitem__(self, index):
        signal = random_shift(self.signals[index])
        return band_energies(remove_outliers(signal)), int(self.speeds[index])


def random_shift(signal):
    return np.roll(signal, int(torch.randint(LENGTH, ())))


def remove_outliers(signal):
    low, high = np.quantile(signal, (0.01, 0.99))
    return signal.clip(low, high)


def band_energies(signal):
    spectrum = np.abs(np.fft.rfft(signal * np.hanning(LENGTH)))[: BANDS * 2]
    return torch.from_numpy(np.log1p(spectrum.reshape(BANDS, -1).sum(axis=1)).astype(np.float32))


class SpeedClassifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(BANDS, 64), nn.ReLU(), nn.Linear(64, len(SPEEDS)))

    def training_step(self, batch, batch_index):
        energies, speeds = batch
        return nn.functional.cross_entropy(self.model(energies), speeds)

    def validation_step(self, batch, batch_index):
        energies, speeds = batch
        self.log("accuracy", (self.model(energies).argmax(dim=1) == speeds).float().mean())

    def on_train_epoch_start(self):
        self.started = time.perf_counter()

    def on_train_epoch_end(self):
        rate = len(self.trainer.train_dataloader.dataset) / (time.perf_counter() - self.started)
        accuracy = float(self.trainer.callback_metrics["accuracy"])
        print(f"epoch {self.current_epoch + 1}: accuracy {accuracy:.1%}, {rate:,.0f} signals/s", flush=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main():
    parser = argparse.ArgumentParser(description="Train a small network to hear how fast a machine runs.")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="num_workers of both loaders")
    args = parser.parse_args()
    lightning.seed_everything(0, verbose=False)
    # The step stands in for an accelerator's, and leaves the cores to the data.
    torch.set_num_threads(1)

    train_loader = DataLoader(SignalDataset(1_500, seed=1), batch_size=32, shuffle=True, num_workers=args.workers)
    val_loader = DataLoader(SignalDataset(200, seed=2), batch_size=32, num_workers=args.workers)
    trainer = lightning.Trainer(
        max_epochs=args.epochs,
        accelerator="auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(SpeedClassifier(), train_loader, val_loader)


if __name__ == "__main__":
    main()
