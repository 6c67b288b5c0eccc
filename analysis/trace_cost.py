"""What a trace gets right and what it costs: the operators' times against untraced samples, and the passes' own price.

    python -m analysis.trace_cost

Prints and writes `analysis/results/trace_cost.md`. Each trace times its operators and untraced samples in turns, so
that drift of the machine hits both; the price of recording comes from loads of the same samples in turns, too.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, default_collate

from analysis.machine import description
from plumb.profile.operators import Timing
from plumb.profile.storage import ReadCounter
from plumb.trace import Pipeline, trace
from plumb.trace.course import Course
from plumb.trace.discovery import Discovery
from plumb.trace.processors import choose, select
from plumb.trace.recorder import Recorder
from plumb.trace.sources import source_of

RESULTS = Path(__file__).parent / "results" / "trace_cost.md"
PICTURES, SIZE, CROP = 64, (500, 375), 224
TRACES, SAMPLES, TURNS = 5, 32, 12


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """JPEG files of 500x375 pixels: decoded, cropped and flipped at random, normalised."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.jpg"))
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = self.cropped(Image.open(self.paths[index]).convert("RGB"))
        if self.random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        values = pixels.to(torch.float32).div(255)
        return values.sub(0.45).div(0.22), index % 10

    def cropped(self, picture: Image.Image) -> Image.Image:
        width, height = (int(self.random.integers(CROP, size)) for size in SIZE)
        left, top = int(self.random.integers(0, SIZE[0] - width)), int(self.random.integers(0, SIZE[1] - height))
        box = (left, top, left + width, top + height)
        return picture.resize((CROP, CROP), Image.Resampling.BILINEAR, box=box)


def write_pictures(folder: Path) -> None:
    """Writes the pictures, always the same: smooth, so that they compress as photographs do."""
    generator = np.random.default_rng(0)
    for number in range(PICTURES):
        coarse = generator.integers(0, 255, (SIZE[1] // 8, SIZE[0] // 8, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)
        smooth.save(folder / f"{number:03d}.jpg", quality=90)


def accuracy(pipelines: list[Pipeline]) -> list[str]:
    """A row for each trace: what the operators sum up to, beside the untraced time of a sample."""
    rows = ["| trace | operators | untraced | sum / untraced | operators in the graph |", "|---|---|---|---|---|"]
    for number, pipeline in enumerate(pipelines, 1):
        total, plain = pipeline.attributed_seconds, pipeline.sample_seconds
        rows.append(
            f"| {number} | {total * 1e3:.3f} ms | {plain * 1e3:.3f} ms | {total / plain:.3f} | {len(pipeline.graph)} |"
        )
    ratios = sorted(pipeline.attributed_seconds / pipeline.sample_seconds for pipeline in pipelines)
    rows.append(f"\nMedian of the ratios: {median(ratios):.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f}).")
    return rows


def price(dataset: Pictures) -> list[str]:
    """A row for each kind of pass: what a sample takes in it, all kinds in turns."""
    course = Course(source_of(dataset, SAMPLES, None, 1), default_collate, SAMPLES)
    units, weights = course.first_timing(SAMPLES)
    operators = choose(course.root, weights, readers=())
    with ReadCounter() as reads:
        recorders: dict[str, Recorder | None] = {
            "untraced": None,
            "the operators timed": Timing(course.root, course.rewriter, select(operators, whole=True)),
            "every call timed": Timing(course.root, course.rewriter),
            "every call followed": Discovery(course.root, course.rewriter, reads),
        }
        passes: dict[str, list[float]] = {name: [] for name in recorders}
        for _ in range(TURNS):
            for name, recorder in recorders.items():
                passes[name].append(seconds_per_sample(course, recorder, units))
    seconds = {name: median(figures[1:]) for name, figures in passes.items()}
    rows = ["| pass | a sample takes | against untraced |", "|---|---|---|"]
    return rows + [f"| {name} | {s * 1e3:.3f} ms | {s / seconds['untraced']:.2f} |" for name, s in seconds.items()]


def seconds_per_sample(course: Course, recorder: Recorder | None, units: int) -> float:
    """The wall time of one sample in one pass over all of them."""
    loads = course.source.loads(recorder, units)
    with recorder or nullcontext():
        started = time.perf_counter()
        for load in loads:
            load()
        seconds = time.perf_counter() - started
    if isinstance(recorder, Discovery):
        recorder.keep_only(())
    return seconds / units


def main() -> None:
    """Makes the pictures, measures, prints and writes the result."""
    with tempfile.TemporaryDirectory() as name:
        write_pictures(Path(name))
        torch.set_num_threads(1)
        dataset = Pictures(Path(name))
        started = time.perf_counter()
        pipelines = [trace(dataset, SAMPLES) for _ in range(TRACES)]
        took = (time.perf_counter() - started) / TRACES
        lines = [
            "# What a trace gets right, and what it costs",
            f"\n{description()}\n",
            f"{PICTURES} JPEG files of {SIZE[0]}x{SIZE[1]} pixels; {SAMPLES} samples and {took:.1f} s a trace.\n",
            "## The sum of the operators against the untraced time of a sample, in turns\n",
            *accuracy(pipelines),
            f"\n## What a sample takes while it is traced, medians of {TURNS - 1} passes in turns\n",
            *price(dataset),
        ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
