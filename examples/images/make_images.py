"""Writes the images that `train.py` trains on: 2,000 JPEG files of about 500x375, always the same ones.

Each shows some shapes of one kind before a cloudy background with grain, so that a file weighs and costs about
what a photograph of that size does.

    python examples/images/make_images.py       (train.py calls this by itself when the files are missing)
"""

import math
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

DEFAULT_FOLDER = Path(__file__).resolve().parent / "data" / "shapes"
CLASSES = {"disc": (200, 70, 60), "triangle": (70, 160, 80), "square": (70, 90, 200), "star": (210, 180, 60)}
SPLITS = {"train": 1800, "val": 200}
SEED = 20240229


def clouds(rng, width, height):
    """Smooth noise of several scales, as in skies, walls and foliage."""
    image = np.full((height, width, 3), rng.uniform(90, 160, 3), dtype=np.float32)
    for cells, amplitude in ((3, 45), (9, 25), (40, 14), (130, 8)):
        grid = rng.normal(0, amplitude, (cells * 3 // 4 + 1, cells + 1, 3)).clip(-127, 127)
        layer = Image.fromarray((grid + 128).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        image += np.asarray(layer, dtype=np.float32) - 128
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def corners(kind, x, y, radius, angle):
    count = {"triangle": 3, "square": 4, "star": 10}[kind]
    for i in range(count):
        reach = radius * (0.45 if kind == "star" and i % 2 else 1.0)
        turn = angle + 2 * math.pi * i / count
        yield x + reach * math.cos(turn), y + reach * math.sin(turn)


def draw_image(rng, kind):
    width, height = 500 + int(rng.integers(-20, 21)), 375 + int(rng.integers(-20, 21))
    if rng.random() < 0.25:
        width, height = height, width
    image = clouds(rng, width, height)
    canvas = ImageDraw.Draw(image)
    for _ in range(rng.integers(3, 8)):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(25, 90)
        colour = tuple(int(c) for c in np.clip(np.array(CLASSES[kind]) + rng.normal(0, 25, 3), 0, 255))
        if kind == "disc":
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            canvas.polygon(list(corners(kind, x, y, radius, rng.uniform(0, 2 * math.pi))), fill=colour)
    grain = rng.integers(-11, 12, (height, width, 1), dtype=np.int16)
    return Image.fromarray((np.asarray(image, dtype=np.int16) + grain).clip(0, 255).astype(np.uint8))


def write_image(folder, job):
    # A generator for each file: the files do not depend on how many processes share the work.
    split, number = job
    kind = list(CLASSES)[number % len(CLASSES)]
    rng = np.random.default_rng([SEED, list(SPLITS).index(split), number])
    draw_image(rng, kind).save(folder / split / kind / f"{number:05d}.jpg", quality=90)


def make_images(folder=DEFAULT_FOLDER):
    """Write all images. `folder` appears only when it is complete, so that an interrupted run is simply redone."""
    jobs = [(split, number) for split, count in SPLITS.items() for number in range(count)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.partial-", dir=folder.parent) as temporary:
        draft = Path(temporary) / folder.name
        for split in SPLITS:
            for kind in CLASSES:
                (draft / split / kind).mkdir(parents=True)
        with ProcessPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for done, _ in enumerate(pool.map(partial(write_image, draft), jobs, chunksize=20), start=1):
                if done % 400 == 0:
                    print(f"writing images to {folder}: {done}/{len(jobs)}", flush=True)
        draft.rename(folder)


if __name__ == "__main__":
    if DEFAULT_FOLDER.exists():
        print(f"{DEFAULT_FOLDER} exists already; remove it to have it written again")
    else:
        make_images()
