"""The images example's own loader, for benchmarks that measure it without its script."""

import importlib
import sys
from pathlib import Path

from torch.utils.data import DataLoader

ROOT = Path(__file__).parent.parent


def train_loader() -> DataLoader:
    """Return the train loader as `examples/images/train.py` makes it; write its files if they are missing."""
    sys.path.insert(0, str(ROOT / "examples" / "images"))
    example = importlib.import_module("train")
    if not example.DEFAULT_FOLDER.exists():
        example.make_images(example.DEFAULT_FOLDER)
    return DataLoader(example.FolderDataset(example.DEFAULT_FOLDER / "train", train=True), batch_size=64, shuffle=True)
