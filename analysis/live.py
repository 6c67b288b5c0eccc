"""Tuning while training, against the plan of a tuning before it and against no tuning, on the images example.

    python -m analysis.live

One process, epoch by epoch in turns, so that drift of the machine hits all alike: the loader as the script has it, the
same on an offline plan, on the best of that tuning's trials that torch's own arguments can say, and tuned live. Prints
and writes `analysis/results/live.md`.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch.utils.data import DataLoader

from analysis.images import ROOT, train_loader
from analysis.machine import description
from analysis.tuned import Tuned, tune_loader
from plumb.core.config import Config
from plumb.host.malloc import malloc_reuse
from plumb.runtime.loader import rebuild
from plumb.tuning.live import live_iterator, tuning_of
from plumb.tuning.loader_under_test import TrainingStep

RESULTS = ROOT / "analysis" / "results" / "live.md"
EPOCHS, STEP_SECONDS, BUDGET_SECONDS = 12, 0.02, 40.0
# So many batches live tuning may take until it is compared with a plan.
SETTLED_AFTER = 200


@dataclass
class Side:
    """One of those that are compared, and the seconds of each of its epochs."""

    name: str
    start: Callable[[], Iterator[Any]]
    config: Config
    seconds: list[float] = field(default_factory=list)

    def epoch(self) -> int:
        """Trains an epoch on a step that takes its time elsewhere; how many batches there were."""
        begun, batches = time.perf_counter(), 0
        with malloc_reuse(self.config.allocator_reuse):
            for _ in self.start():
                time.sleep(STEP_SECONDS)
                batches += 1
        self.seconds.append(time.perf_counter() - begun)
        return batches


def torch_s_best(tuned: Tuned) -> Config:
    """Of what the tuning measured, the fastest that needs no runtime of plumb's; workers that outlive an epoch."""
    plain = [trial for trial in tuned.choice.trials if trial.samples_per_second and not trial.config.needs_runtime]
    best = max(plain, key=lambda trial: trial.samples_per_second or 0.0).config
    return dataclasses.replace(best, persistent_workers=best.num_workers > 0)


def main() -> None:
    """Tunes, trains by turns, and writes what came of it."""
    tuned = tune_loader(train_loader(), BUDGET_SECONDS, TrainingStep(64 / STEP_SECONDS, 0.0, blocks=True))
    untuned, live = train_loader(), train_loader()
    on_plan = tuned.make(tuned.config, None)
    on_torch = rebuild(train_loader(), torch_s_best(tuned), None)
    sides = [
        Side("as the script has it", lambda: iter(untuned), Config()),
        Side("tuned live", lambda: live_iterator(live), Config()),
        Side("torch's arguments, by the offline plan's trials", lambda: iter(on_torch), torch_s_best(tuned)),
        Side("the offline plan", lambda: iter(on_plan), tuned.config),
    ]
    batches = 0
    for number in range(EPOCHS):
        for side in sides:
            batches = side.epoch()
        seconds = ", ".join(f"{side.name} {side.seconds[-1]:.2f} s" for side in sides)
        print(f"epoch {number + 1} of {EPOCHS}: {seconds}", file=sys.stderr)
    text = report(sides, live, batches, len(untuned.dataset))
    print(text)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)


def report(sides: list[Side], live: DataLoader, batches: int, samples: int) -> str:
    """Return the epochs side by side, in the words of the aims."""
    untuned, tuned, torchs, plan = sides
    settled = -(-SETTLED_AFTER // batches)

    def rate(side: Side) -> float:
        return samples / median(side.seconds[settled:])

    shares = {other.name: rate(tuned) / rate(other) for other in (torchs, plan)}
    # An epoch's neighbours in time: what the machine did meanwhile is in both.
    slower = [one / other for one, other in zip(tuned.seconds, untuned.seconds, strict=True)]
    lines = [
        "# Tuning while training\n",
        f"{description()}\n",
        f"The images example, {samples:,} images in {batches} batches an epoch, a step of {STEP_SECONDS * 1e3:.0f} ms "
        f"elsewhere; {EPOCHS} epochs of each by turns in one process.\n",
        f"- After {settled * batches} batches, the loop that is tuned live runs at {rate(tuned):,.0f} samples/s: "
        + ", ".join(f"{share:.3f} of {name} ({rate(next(s for s in sides if s.name == name)):,.0f})"
                    for name, share in shares.items()) + f"; as the script has it, {rate(untuned):,.0f}.",
        f"- Its slowest epoch beside the untuned one next to it in time: {max(slower):.2f} of its seconds; its first: "
        f"{slower[0]:.2f}.\n",
        "| epoch | " + " | ".join(side.name for side in sides) + " |",
        "|---" * (len(sides) + 1) + "|",
        *(
            f"| {number + 1} | " + " | ".join(f"{samples / side.seconds[number]:,.0f}" for side in sides) + " |"
            for number in range(EPOCHS)
        ),
        "\nSamples per second of each epoch, its start of workers included. The plan: "
        f"{plan.config}. Torch's arguments: {torchs.config}.\n",
        "What ran while it was tuned live:\n",
        *(
            f"- {trial.config}: "
            + (f"{trial.samples_per_second:,.0f} samples/s, " if trial.samples_per_second else "")
            + trial.outcome
            for trial in tuning_of(live).trials
        ),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
