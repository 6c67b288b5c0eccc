"""What it costs to bring batches from workers into the main process, in torch's loader and with memory used again.

    python -m analysis.crossing [--quick]

The samples are made by next to nothing, so that the way of a batch is what counts: its memory, its descriptors, its
pickling. Both loaders have the same configuration, and the compared batches are the same. Prints and writes
`analysis/results/crossing.md`.
"""

from collections.abc import Callable
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
from plumb.plan import Config
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


def pairs(loader: DataLoader[Any], workers: int) -> tuple[Contender, Contender]:
    """Torch's loader and plumb's, which differs in nothing but that memory is used again."""
    config = Config(workers, 2, persistent_workers=True)
    reusing = replace(config, allocator_reuse=True)
    return torch_contender(loader, config), Contender(str(reusing), reusing, lambda i: rebuild(loader, reusing, i))


def line(name: str, workers: int, torchs: Reading, ours: Reading, differing: int) -> list[str]:
    """One row of the table."""
    gain = share(ours, torchs)
    per_batch = [f"{BATCH_SIZE / reading.rate.samples_per_second * 1e3:.2f}" for reading in (torchs, ours)]
    low, high = gain.interval
    return [name, str(workers), *per_batch, f"{gain.samples_per_second:.2f} [{low:.2f}, {high:.2f}]", str(differing)]


def main() -> None:
    """Prints and writes the results."""
    asked = results.arguments(__doc__, FULL).parse_args()
    effort = QUICK if asked.quick else FULL
    torch.set_num_threads(1)
    rows = []
    for name, (make, collate_fn) in BATCHES.items():
        loader = DataLoader(Samples(make), batch_size=BATCH_SIZE, collate_fn=collate_fn)
        compared = [pairs(loader, workers) for workers in WORKERS]
        say(f"crossing: {name}, {effort.turns} turns")
        contenders = [contender for pair in compared for contender in pair]
        readings = by_turns(contenders, stream_of(loader), BATCH_SIZE, effort.turns, effort.window_seconds)
        for number, workers in enumerate(WORKERS):
            own, reusing = readings[2 * number : 2 * number + 2]
            differing = differing_batches(
                torch_loader(loader, own.contender.config, None), compared[number][1].make(None), _COMPARED
            )
            rows.append(line(name, workers, own, reusing, differing))
    head = ["a batch of 64", "workers", "torch, ms", "memory used again, ms", "times as fast", "batches that differ"]
    lines = [
        f"Milliseconds from one batch to the next, with a main process that only takes them; medians of {effort.turns} "
        f"turns with 95 % intervals. Of the first {_COMPARED} batches, so many are not the same bit for bit.",
        "",
        *table(head, rows),
    ]
    publish("crossing", "The way of a batch from a worker to the main process", lines, keep=not asked.quick)


if __name__ == "__main__":
    main()
