"""Cost of bringing batches from workers into the main process, in torch's loader and with memory used again.

    python -m analysis.crossing [--quick]

The samples are made by next to nothing, so that the way of a batch is what counts: its memory, its descriptors, its
pickling. Both loaders have the same configuration, and the compared batches are the same. Prints and writes
`analysis/results/crossing.md`.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from analysis import results
from analysis.measuring import (
    Contender,
    Reading,
    by_turns,
    differing_batches,
    share,
    stream_of,
    torch_contender,
    torch_loader,
)
from analysis.results import Effort, publish, say, table
from plumb.core.config import Config
from plumb.runtime.loader import rebuild

FULL, QUICK = Effort(9, 1.0, 0.0), Effort(1, 0.3, 0.0)
WORKERS = (1, 2, 4)
BATCH_SIZE = 64
_LENGTH = 6400
_COMPARED = 10


class Samples(Dataset):
    """Samples that cost next to nothing."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return _LENGTH

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


IMAGE = torch.rand(3, 224, 224)
PIXELS = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8)


def image(index: int) -> Any:
    return IMAGE, index


def pixels(index: int) -> Any:
    return PIXELS, index


def row(index: int) -> Any:
    return torch.full((32,), float(index)), index


def boxes(index: int) -> Any:
    return torch.full((1 + index % 9, 4), float(index)), torch.arange(1 + index % 9)


def in_lists(samples: list[Any]) -> Any:
    return [box for box, _ in samples], [label for _, label in samples]


BATCHES: dict[str, tuple[Callable[[int], Any], Any]] = {
    "images, 3 x 224 x 224 floats": (image, None),
    "images, 3 x 224 x 224 bytes": (pixels, None),
    "rows of 32 floats": (row, None),
    "boxes and labels, in lists": (boxes, in_lists),
}


def contenders_of(loader: DataLoader[Any], workers: int) -> list[Contender]:
    """Torch's loader, plumb's with nothing changed, and plumb's with nothing changed but that memory is used again."""
    config = Config(workers, 2, persistent_workers=True)
    reusing = replace(config, allocator_reuse=True)
    return [
        torch_contender(loader, config),
        Contender(f"plumb, {config}", config, lambda indices: rebuild(loader, config, indices)),
        Contender(f"plumb, {reusing}", reusing, lambda indices: rebuild(loader, reusing, indices)),
    ]


def line(name: str, workers: int, readings: Sequence[Reading], differing: int) -> list[str]:
    """One row of the table."""
    torchs, unchanged, reusing = readings
    per_batch = [f"{BATCH_SIZE / reading.rate.samples_per_second * 1e3:.2f}" for reading in (torchs, reusing)]
    shares = []
    for reading in (unchanged, reusing):
        ratio = share(reading, torchs)
        low, high = ratio.interval
        shares.append(f"{ratio.samples_per_second:.2f} [{low:.2f}, {high:.2f}]")
    return [name, str(workers), *per_batch, *shares, str(differing)]


def main() -> None:
    """Print the results and write them."""
    asked = results.arguments(__doc__, FULL).parse_args()
    effort = QUICK if asked.quick else FULL
    torch.set_num_threads(1)
    rows = []
    for name, (make, collate_fn) in BATCHES.items():
        loader = DataLoader(Samples(make), batch_size=BATCH_SIZE, collate_fn=collate_fn)
        compared = [contenders_of(loader, workers) for workers in WORKERS]
        say(f"crossing: {name}, {effort.turns} turns")
        contenders = [contender for alike in compared for contender in alike]
        readings = iter(by_turns(contenders, stream_of(loader), BATCH_SIZE, effort.turns, effort.window_seconds))
        for workers, (torchs, _, reusing) in zip(WORKERS, compared, strict=True):
            differing = differing_batches(torch_loader(loader, torchs.config, None), reusing.make(None), _COMPARED)
            rows.append(line(name, workers, list(itertools.islice(readings, 3)), differing))
    head = [
        "a batch of 64",
        "workers",
        "torch, ms",
        "memory used again, ms",
        "plumb with nothing changed: times as fast",
        "memory used again: times as fast",
        "batches that differ",
    ]
    lines = [
        f"Milliseconds from one batch to the next, with a main process that only takes them; medians of {effort.turns} "
        f"turns with 95 % intervals. Of the first {_COMPARED} batches, so many are not the same bit for bit.",
        "",
        *table(head, rows),
    ]
    publish("crossing", "The way of a batch from a worker to the main process", lines, keep=not asked.quick)


if __name__ == "__main__":
    main()
