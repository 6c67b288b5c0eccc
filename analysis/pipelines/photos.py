"""The images example: decode, random resized crop, flip, to tensor, normalise; bound by the CPU."""

from pathlib import Path

from analysis.images import train_loader
from analysis.pipelines.pipeline import Pipeline


def make(folder: Path) -> Pipeline:
    """Return the pipeline of the example's own dataset; its files are beside the example, not in `folder`."""
    return Pipeline("photos", "the CPU", train_loader().dataset, batch_size=64)
