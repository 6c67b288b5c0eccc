"""Clips from compressed videos: seek to a random place, decode from the key frame before it, and keep some frames."""

import random
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from analysis.pipelines.pictures import example_paths
from analysis.pipelines.pipeline import Pipeline, made_once

_FILES, _FRAMES, _RATE, _WIDTH, _HEIGHT = 96, 96, 24, 320, 240
_CLIP, _STRIDE, _SIDE, _KEY_FRAMES = 8, 2, 112, 24


class Clips(Dataset):
    """Eight frames of a video, every second one, made small."""

    def __init__(self, folder):
        self.paths = sorted(Path(folder).glob("*.mp4"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        first = random.randint(0, _FRAMES - _CLIP * _STRIDE)
        frames = torch.from_numpy(np.stack(clip(self.paths[index], first)))
        return frames.permute(3, 0, 1, 2).float() / 255 - 0.45, index % 10


def clip(path, first):
    """Return the frames from the one that is shown after `first` others on."""
    frames = []
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        # One thread, as each worker has a core to itself.
        stream.thread_count = 1
        ticks_per_frame = 1 / (stream.average_rate * stream.time_base)
        video.seek(int(first * ticks_per_frame), stream=stream)
        for frame in video.decode(stream):
            number = round(frame.pts / ticks_per_frame)
            if number >= first and (number - first) % _STRIDE == 0:
                frames.append(frame.reformat(_SIDE, _SIDE, "rgb24").to_ndarray())
            if len(frames) == _CLIP:
                return frames
    # The last frames of a video stand still.
    return frames + [frames[-1]] * (_CLIP - len(frames))


def _fill(folder):
    for number, path in enumerate(example_paths()[:_FILES]):
        image = Image.open(path).convert("RGB").resize((2 * _WIDTH, 2 * _HEIGHT))
        grain = np.random.default_rng(number)
        with av.open(str(folder / f"{number:04d}.mp4"), "w") as video:
            stream = video.add_stream("mpeg4", rate=_RATE)
            stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
            stream.codec_context.gop_size = _KEY_FRAMES
            stream.bit_rate = 1_500_000
            for shift in range(_FRAMES):
                view = np.asarray(image.crop((shift, shift, shift + _WIDTH, shift + _HEIGHT)), dtype=np.int16)
                noisy = (view + grain.integers(-4, 5, view.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)
                video.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, "rgb24")))
            video.mux(stream.encode())


def make(folder: Path) -> Pipeline:
    """Videos of 320x240, four seconds each."""
    return Pipeline("video clips", "the CPU", Clips(made_once(folder / "videos", _fill)), batch_size=8)
