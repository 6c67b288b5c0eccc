"""JPEG files of the size that a benchmark needs, made from the images example's."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from analysis.images import train_loader


def example_paths() -> list[Path]:
    """Return the images example's train files, in the order in which they were made."""
    return sorted((Path(path) for path, _ in train_loader().dataset.samples), key=lambda path: path.name)


def write_pictures(folder: Path, count: int, width: int, height: int) -> None:
    """Write `count` files of that size, with grain, so that they cost what photographs of that size do."""
    paths = example_paths()[:count]
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(_write, folder, width, height), paths, range(count), chunksize=10))


def _write(folder: Path, width: int, height: int, path: Path, number: int) -> None:
    image = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(number).integers(-8, 9, (height, width, 1), dtype=np.int16)
    grainy = (np.asarray(image, dtype=np.int16) + grain).clip(0, 255).astype(np.uint8)
    Image.fromarray(grainy).save(folder / f"{number:05d}.jpg", quality=88)
