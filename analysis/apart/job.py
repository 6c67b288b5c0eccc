"""Job of a script, its measurement, and its answer; needs numpy and nothing else."""

from __future__ import annotations

import json
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from analysis.apart.contents import contents_of

ANSWER = "ANSWER "
# Libraries hand over in bursts, so that a stretch must be longer than one.
_CHUNK_SECONDS, _CHUNK_BATCHES = 0.3, 4
# What libraries hold ready is handed over faster than they can produce: it is taken first, and not counted.
_WARM_SECONDS, _WARM_BATCHES = 1.0, 32


@dataclass(frozen=True)
class Job:
    """`batches` are the indices to load, over and over; the first `checked` of them are loaded once, and looked at.

    `images` are the paths and labels of an image pipeline, for libraries that have operators of their own. `dataset` is
    a pickled pair of dataset and collate, `folder` a place for files that are made once. `cores` may be used.
    """

    settings: dict[str, Any]
    batches: list[list[int]]
    samples_per_batch: float
    checked: int
    seconds: float
    cores: int
    dataset: str
    folder: str
    images: list[tuple[str, int]]

    @property
    def is_uneven(self) -> bool:
        """True if batches differ in how many samples they have, except for the last one."""
        return len({len(batch) for batch in self.batches[:-1]}) > 1

    def write(self, path: Path) -> None:
        """Write the job for a script to read."""
        path.write_text(json.dumps(asdict(self)))

    def load(self) -> tuple[Any, Callable[[list[Any]], Any]]:
        """Return the dataset and its collate function; needs the packages that these need."""
        dataset, collate = pickle.loads(Path(self.dataset).read_bytes())
        return dataset, collate

    def full_batches(self) -> list[list[int]]:
        """Return the batches without a smaller last one."""
        return self.batches if self.is_uneven else [b for b in self.batches if len(b) == len(self.batches[0])]


def read_job() -> Job:
    """Return the job that this script was given."""
    return Job(**json.loads(Path(sys.argv[1]).read_text()))


def answer(job: Job, make: Callable[[list[list[int]], bool], Iterable[Any]], packages: Iterable[str]) -> None:
    """Do the job and print the answer; `make` returns batches for indices, once, or for ever and in any order."""
    found: dict[str, Any] = {"versions": {package: version(package) for package in packages}}
    if job.checked:
        found["contents"] = contents_of(islice(make(job.batches[: job.checked], False), job.checked)).as_json()
    if job.seconds:
        batches = iter(make(job.full_batches(), True))
        found["chunks"] = list(measured(batches, job.samples_per_batch, job.seconds))
    print(ANSWER + json.dumps(found), flush=True)


def measured(batches: Iterator[Any], samples_per_batch: float, seconds: float) -> Iterator[tuple[float, float]]:
    """Yield samples and seconds of consecutive stretches in steady state."""
    warm_until = time.perf_counter() + _WARM_SECONDS
    for taken, _ in enumerate(batches, 1):
        if taken >= _WARM_BATCHES or time.perf_counter() > warm_until:
            break
    begin = chunk_begin = time.perf_counter()
    count = 0
    for _ in batches:
        count += 1
        now = time.perf_counter()
        if count >= _CHUNK_BATCHES and now - chunk_begin >= _CHUNK_SECONDS:
            yield count * samples_per_batch, now - chunk_begin
            chunk_begin, count = now, 0
            if now - begin >= seconds:
                return
