"""The ten pipelines on which plumb is compared with its peers: Plumber's five, and five more that users have."""

import contextlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

from analysis import pipelines
from analysis.pipelines.pipeline import DATA, Pipeline

S3 = "s3"
_QUICK_COUNTS = 3
# One thread takes seconds for a batch out of a store with a latency; with larger ones, a grid would take an hour.
_S3_BATCH, _S3_QUICK_BATCH = 16, 8
NAMES = (
    "photos",
    "segmentation",
    "detection",
    "translation",
    "sorted_translation",
    "spectrograms",
    "videos",
    "rows",
    "neighbours",
    S3,
)


@contextlib.contextmanager
def opened(name: str, is_quick: bool = False) -> Iterator[Pipeline]:
    """Yield the pipeline of that name with its files, and with its servers until the context ends.

    A quick one has few worker counts to try, and small batches where a batch takes seconds. Raises ImportError if
    its library is missing.
    """
    with _in_s3(_S3_QUICK_BATCH if is_quick else _S3_BATCH) if name == S3 else nullcontext(_made(name)) as pipeline:
        yield replace(pipeline, worker_counts=pipeline.worker_counts[:_QUICK_COUNTS]) if is_quick else pipeline


def _made(name: str) -> Pipeline:
    return pipelines.made([name])[0]


@contextlib.contextmanager
def _in_s3(batch: int) -> Iterator[Pipeline]:
    from analysis.pipelines.remote import BUCKET, BucketDataset, pictures
    from analysis.remote import bucket

    folder = pictures(DATA)
    keys = sorted(path.name for path in (folder / BUCKET).iterdir())
    with bucket(folder, [f"/{BUCKET}/{key}" for key in keys[:_S3_BATCH]], 0) as served:
        yield Pipeline(
            "objects in S3",
            "the latency of the store",
            BucketDataset(f"http://127.0.0.1:{served.port}", keys),
            batch,
            worker_counts=(0, 1, 2, 4, 8, 16),
            is_deterministic=True,
            ceiling_samples_per_second=served.ceiling,
        )
