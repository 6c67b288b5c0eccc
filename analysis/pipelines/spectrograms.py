"""Recordings turned into pictures of their spectrum: much work, and always the same for the same file."""

from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from analysis.pipelines.pipeline import Pipeline, made_once

_FILES, _SECONDS, _RATE = 512, 8, 16_000
_WINDOW, _HOP = 1024, 160


class Recordings(Dataset):
    """Reads a file, and makes its spectrogram in decibels, of a fixed size."""

    def __init__(self, folder):
        self.paths = sorted(Path(folder).glob("*.wav"))
        self.window = torch.hann_window(_WINDOW)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        sound, _ = soundfile.read(self.paths[index], dtype="float32")
        spectrum = torch.stft(torch.from_numpy(sound), _WINDOW, _HOP, window=self.window, return_complex=True)
        decibels = 10 * (spectrum.abs().square() + 1e-10).log10()
        picture = interpolate(decibels[None, None], (128, 128), mode="bilinear", antialias=True)[0]
        return (picture - picture.mean()) / picture.std(), index % 10


def _fill(folder):
    times = np.arange(_SECONDS * _RATE) / _RATE
    for number in range(_FILES):
        random = np.random.default_rng(number)
        tones = sum(np.sin(2 * np.pi * random.uniform(80, 4000) * times + random.uniform(0, 6)) for _ in range(4))
        noise = random.standard_normal(len(times), dtype=np.float32)
        soundfile.write(folder / f"{number:04d}.wav", 0.1 * tones + 0.02 * noise, _RATE)


def make(folder: Path) -> Pipeline:
    """Eight seconds of sound a sample."""
    return Pipeline("spectrograms", "the CPU", Recordings(made_once(folder / "spectrograms", _fill)), batch_size=32)
