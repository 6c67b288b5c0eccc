"""Trains on spectrograms of sounds with a loader that tunes itself, because the dataset's class has `@plumb.tuned`.

What it shows: the rest of the script is plain torch, with torch's own `DataLoader`. The first run tunes the loader
once, for the 5 seconds that the decorator allows, and keeps the plan in ~/.cache/plumb. Later runs start on that plan.

    python examples/decorator/train.py               tune once, say so, and train on the plan
    python examples/decorator/train.py               train on the plan at once
    PLUMB=off python examples/decorator/train.py     train as if the class had no decorator
"""

import argparse
import time
import zlib

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import plumb

RATE = 16_000  # samples of a sound in a second
PITCHES = (220.0, 330.0, 440.0, 660.0)
WINDOW, HOP = 512, 128


def make_sounds(count, seed=20240229):
    """Return compressed sounds of one second, each a tone with an overtone in noise, and their pitches' numbers."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(RATE) / RATE
    pitches = rng.integers(0, len(PITCHES), count)
    sounds = []
    for pitch in pitches:
        turns = 2 * np.pi * PITCHES[pitch] * rng.uniform(0.97, 1.03) * seconds
        wave = np.sin(turns) + 0.5 * np.sin(2 * turns) + rng.normal(0, 0.7, RATE)
        sounds.append(zlib.compress((wave * 4_000).astype(np.int16).tobytes(), 1))
    return sounds, pitches.tolist()


def decode(sound):
    return torch.from_numpy(np.frombuffer(zlib.decompress(sound), dtype=np.int16).astype(np.float32) / 32_768)


def spectrogram(wave):
    spectrum = torch.stft(wave, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)
    return torch.log1p(spectrum.abs())


def random_excerpt(image, frames=64):
    start = int(torch.randint(image.shape[1] - frames + 1, ()))
    return image[:, start : start + frames].clone()


@plumb.tuned(budget=5)  # without a budget, `@plumb.tuned` tunes for 30 seconds
class SoundDataset(Dataset):
    def __init__(self, count):
        self.sounds, self.pitches = make_sounds(count)

    def __len__(self):
        return len(self.sounds)

    def __getitem__(self, index):
        return random_excerpt(spectrogram(decode(self.sounds[index]))), self.pitches[index]


def main():
    parser = argparse.ArgumentParser(description="Train a small network to hear the pitch of a sound.")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--sounds", type=int, default=1_500)
    args = parser.parse_args()
    torch.manual_seed(0)
    # The step stands in for an accelerator's, and leaves the cores to the data.
    torch.set_num_threads(1)

    dataset = SoundDataset(args.sounds)
    loader = DataLoader(dataset, batch_size=32, shuffle=True)
    model = nn.Sequential(
        nn.AvgPool2d((1, 64)), nn.Flatten(), nn.Linear(WINDOW // 2 + 1, 64), nn.ReLU(), nn.Linear(64, len(PITCHES))
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(1, args.epochs + 1):
        total, started = 0.0, None
        for images, pitches in loader:
            # The tuning comes before the first batch, and is not part of the epoch.
            started = started or time.perf_counter()
            loss = nn.functional.cross_entropy(model(images), pitches)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        rate = len(dataset) / (time.perf_counter() - started)
        print(f"epoch {epoch}: loss {total / len(loader):.3f}, {rate:,.0f} sounds/s", flush=True)


if __name__ == "__main__":
    main()
