"""A ResNet trained on a GPU from the images example's files, with torch's loaders and with plumb's choice, by turns.

    python -m analysis --device cuda [--quick]

The step is real: ResNet-50 in mixed precision, forwards, backwards and the optimiser's. Prints and writes
`analysis/results/device.md`; where there is no device, says so and measures nothing.
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
from analysis.results import Effort, publish, say, table
from analysis.tuned import tune_loader
from plumb.plan import Config
from plumb.search.measure import Chunk, IndexStream
from plumb.tuning import Step

FULL, QUICK = Effort(5, 5.0, 60.0), Effort(1, 1.0, 10.0)
_PIPELINE, _CLASSES = "photos", 10
_WARM_STEPS, _CHUNK_STEPS = 5, 4


class Training:
    """A ResNet-50 and its optimiser on the device; a step takes a batch of images and labels to it, and learns."""

    def __init__(self) -> None:
        from torchvision.models import resnet50

        self.model = resnet50(num_classes=_CLASSES).cuda()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)

    def step(self, batch: Sequence[torch.Tensor]) -> None:
        """One step; it may still run when this returns."""
        images, labels = (part.cuda(non_blocking=True) for part in batch)
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

    def alone(self, batch: Any, seconds: float) -> Step:
        """What the step could consume, and the CPU seconds that it burns for a sample: the same batch over and over."""
        burnt = time.process_time()
        chunks = list(self.rates(iter(lambda: batch, None), seconds))
        samples = sum(chunk.samples for chunk in chunks)
        return Step(samples / sum(chunk.seconds for chunk in chunks), (time.process_time() - burnt) / samples)


def trained_with(training: Training, contender: Contender, stream: IndexStream | None) -> Apart:
    """A contender whose rate is that of a training on its batches."""

    def window(seconds: float) -> list[Chunk]:
        return list(training.rates(iter(contender.make(stream)), seconds))

    return Apart(contender.name, window, contender.config)


def compare(is_quick: bool) -> None:
    """Prints and writes the results."""
    if not torch.cuda.is_available():
        say("analysis: no CUDA device is here, so nothing was measured on one")
        return
    effort = QUICK if is_quick else FULL
    with field.opened(_PIPELINE) as pipeline:
        loader, training = pipeline.loader, Training()
        alone = training.alone(next(iter(loader)), effort.window_seconds)
        tuned = tune_loader(loader, effort.budget_seconds, alone)
        suggested = len(os.sched_getaffinity(0))
        pinned = replace(tuned.config, pin_memory=True)
        sides = [
            torch_contender(loader, Config(), "torch's default"),
            torch_contender(loader, Config(suggested, 2, True, True), f"torch's suggested {suggested} workers, pinned"),
            tuned.contender(tuned.config),
            tuned.contender(pinned),
        ]
        tuned.fill([tuned.config, pinned])
        stream = stream_of(loader)
        readings = by_turns(
            [trained_with(training, side, stream) for side in dict.fromkeys(sides)],
            None,
            pipeline.batch_size,
            effort.turns,
            effort.window_seconds,
        )
    lines = [
        f"{torch.cuda.get_device_name()}; ResNet-50, bfloat16, batch {pipeline.batch_size}. The step alone takes "
        f"{alone.samples_per_second:,.0f} samples/s. plumb measured for {tuned.seconds:.0f} s.",
        "",
        *table(["loader", "samples/s", "of the step alone", "over torch's default"], _rows(readings, alone)),
    ]
    publish("device", "Training on a GPU", lines, keep=not is_quick)


def _rows(readings: list[Reading], alone: Step) -> list[list[str]]:
    default = readings[0]
    return [
        [
            reading.contender.name,
            f"{reading.rate.samples_per_second:,.0f}",
            f"{reading.rate.samples_per_second / alone.samples_per_second:.2f}",
            f"{share(reading, default).samples_per_second:.2f}" if default.is_measured else "",
        ]
        if reading.is_measured
        else [reading.contender.name, reading.error, "", ""]
        for reading in readings
    ]
