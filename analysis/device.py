"""ResNets trained on a GPU from the images example's files, with torch's loaders and with plumb's choices, by turns.

    python -m analysis --device cuda [--quick]

The steps are real: a ResNet in mixed precision and the layout that suits it, forwards, backwards and the optimiser's.
plumb chooses for each model's own step, once with batches that arrive where the script expects them, and once with
leave to let them arrive on the device. Prints and writes `analysis/results/device.md`; where there is no device, says
so and measures nothing.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from analysis import field
from analysis.measuring import Apart, Contender, Reading, by_turns, share, stream_of, torch_contender
from analysis.pipelines.pipeline import Pipeline
from analysis.results import Effort, publish, say, table
from analysis.tuned import tune_loader
from plumb.core.config import Config
from plumb.core.thresholds import EQUAL
from plumb.host.pinned_memory import pinned
from plumb.tuning.loader_under_test import TrainingStep
from plumb.tuning.measure.throughput import Chunk, IndexStream

FULL, QUICK = Effort(3, 4.0, 45.0), Effort(1, 1.0, 10.0)
_MODELS = ("resnet18", "resnet50")
_PIPELINE, _CLASSES = "photos", 10
_WARM_STEPS, _CHUNK_STEPS = 5, 4


class Training:
    """A model and its optimiser on the device; a step takes a batch of images and labels to it, and learns."""

    def __init__(self, name: str) -> None:
        from torchvision.models import get_model

        self.model = get_model(name, num_classes=_CLASSES).cuda().to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)

    def step(self, batch: Sequence[torch.Tensor]) -> None:
        """One step; it may still run when this returns."""
        images, labels = (part.cuda(non_blocking=True) for part in batch)
        images = images.to(memory_format=torch.channels_last)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def rates(self, batches: Iterator[Any], seconds: float) -> Iterator[Chunk]:
        """Trains on `batches` for about so long, after a few steps that don't count; the device is waited for."""
        for _ in range(_WARM_STEPS):
            self.step(next(batches))
        torch.cuda.synchronize()
        begin = chunk_begin = time.perf_counter()
        while chunk_begin - begin < seconds:
            samples = 0
            for _ in range(_CHUNK_STEPS):
                batch = next(batches)
                self.step(batch)
                samples += len(batch[0])
            torch.cuda.synchronize()
            now = time.perf_counter()
            yield Chunk(samples, now - chunk_begin)
            chunk_begin = now

    def step_rate(self, batch: Any, seconds: float) -> TrainingStep:
        """Return the step's rate, and its CPU seconds for a sample; from page-locked memory if that is better."""
        pageable, locked = self._alone(batch, seconds), self._alone(pinned(batch), seconds)
        gains = locked.samples_per_second > (1 + EQUAL) * pageable.samples_per_second
        return replace(locked, pageable_samples_per_second=pageable.samples_per_second) if gains else pageable

    def _alone(self, batch: Any, seconds: float) -> TrainingStep:
        """Measure the step on the same batch over and over."""
        burnt = time.process_time()
        chunks = list(self.rates(iter(lambda: batch, None), seconds))
        samples = sum(chunk.samples for chunk in chunks)
        burnt_each = (time.process_time() - burnt) / samples
        return TrainingStep(samples / sum(chunk.seconds for chunk in chunks), burnt_each, blocks=False)


def trained_with(training: Training, contender: Contender, stream: IndexStream | None) -> Apart:
    """Return a contender whose rate is that of a training on its batches."""

    def window(seconds: float) -> list[Chunk]:
        return list(training.rates(iter(contender.make(stream)), seconds))

    return Apart(contender.name, window, contender.config)


def compare(is_quick: bool) -> None:
    """Print the results and write them."""
    if not torch.cuda.is_available():
        say("analysis: no CUDA device is here, so nothing was measured on one")
        return
    effort, parts = QUICK if is_quick else FULL, []
    with field.opened(_PIPELINE) as pipeline:
        for model in _MODELS:
            say(f"analysis: {model}")
            parts += _compared(model, pipeline, effort)
    publish("device", f"Training on one {torch.cuda.get_device_name()}", parts, keep=not is_quick)


def _compared(model: str, pipeline: Pipeline, effort: Effort) -> list[str]:
    loader, training = pipeline.loader, Training(model)
    stream, suggested = stream_of(loader), len(os.sched_getaffinity(0))
    alone = training.step_rate(next(iter(loader)), effort.window_seconds)
    here = tune_loader(loader, effort.budget_seconds, alone)
    there = tune_loader(loader, effort.budget_seconds, alone, on_device=True)
    here.fill([here.config])
    there.fill([there.config])
    sides = [
        torch_contender(loader, Config(), "torch's default"),
        torch_contender(loader, Config(suggested, 2, True, True), f"torch's suggested {suggested} workers, pinned"),
        here.contender(here.config),
        there.contender(there.config, f"plumb, {there.config}, arriving on the device"),
    ]
    readings = by_turns(
        [trained_with(training, side, stream) for side in dict.fromkeys(sides)],
        None,
        pipeline.batch_size,
        effort.turns,
        effort.window_seconds,
    )
    return [
        f"## {model}",
        "",
        f"In bfloat16, batch {pipeline.batch_size}. The step alone takes {alone.samples_per_second:,.0f} samples/s. "
        f"plumb measured for {here.seconds:.0f} s, and for {there.seconds:.0f} s with leave to let batches arrive on "
        "the device.",
        "",
        *table(["loader", "samples/s", "of the step alone", "over torch's default"], _rows(readings, alone)),
        "",
        *(f"- {note}" for note in dict.fromkeys((*here.choice.notes, *there.choice.notes))),
        "",
    ]


def _rows(readings: list[Reading], alone: TrainingStep) -> list[list[str]]:
    default = readings[0]
    return [
        [
            reading.contender.name,
            f"{reading.rate.samples_per_second:,.0f} "
            f"[{reading.rate.interval[0]:,.0f}, {reading.rate.interval[1]:,.0f}]",
            f"{reading.rate.samples_per_second / alone.samples_per_second:.2f}",
            f"{share(reading, default).samples_per_second:.2f}" if default.is_measured else "",
        ]
        if reading.is_measured
        else [reading.contender.name, reading.error, "", ""]
        for reading in readings
    ]
