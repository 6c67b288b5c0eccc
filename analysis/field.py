"""The ten pipelines on which plumb is compared with its peers: Plumber's five, and five more that users have."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from analysis.pipelines import (
    detection,
    neighbours,
    photos,
    rows,
    segmentation,
    sorted_translation,
    spectrograms,
    translation,
    videos,
)
from analysis.pipelines.pipeline import DATA, Pipeline
from analysis.pipelines.remote import BUCKET, BucketDataset, pictures
from analysis.remote import BATCH, bucket

_MAKERS: dict[str, Callable[[Path], Pipeline]] = {
    module.__name__.rpartition(".")[2]: module.make
    for module in (
        photos,
        segmentation,
        detection,
        translation,
        sorted_translation,
        spectrograms,
        videos,
        rows,
        neighbours,
    )
}
S3 = "s3"
NAMES = (*_MAKERS, S3)


@contextlib.contextmanager
def opened(name: str) -> Iterator[Pipeline]:
    """The pipeline of that name with its files, and with its servers for as long as it is entered."""
    if name in _MAKERS:
        yield _MAKERS[name](DATA)
        return
    folder = pictures(DATA)
    keys = sorted(path.name for path in (folder / BUCKET).iterdir())
    with bucket(folder, [f"/{BUCKET}/{key}" for key in keys[:BATCH]], 0) as served:
        yield Pipeline(
            "objects in S3",
            "the latency of the store",
            BucketDataset(f"http://127.0.0.1:{served.port}", keys),
            BATCH,
            worker_counts=(0, 1, 2, 4, 8, 16),
            is_deterministic=True,
            ceiling_samples_per_second=served.ceiling,
        )
