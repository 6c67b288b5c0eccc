"""Epochs by the clock with plumb's choice, against the best configuration that has no cache.

    python -m analysis.caching [--quick] [--only PIPELINE...]

The best without a cache is the best of torch's loader over its own knobs. Then whole epochs of both are run by turns,
plumb's first one apart, as it fills the cache. Prints and writes `analysis/results/caching.md`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from analysis import knobs, results
from analysis.measuring import best, by_turns, stream_of, torch_contender
from analysis.pipelines import made
from analysis.pipelines.pipeline import Pipeline
from analysis.results import Effort, publish, say, table
from analysis.tuned import tune_loader
from plumb.core.config import Config
from plumb.host.malloc import malloc_reuse

FULL, QUICK = Effort(3, 1.0, 60.0), Effort(1, 0.3, 6.0)
EPOCHS, QUICK_EPOCHS = 9, 1
PIPELINES = ("augmented", "spectrograms", "large_photos")
_RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """Seconds of whole epochs: of the best without a cache, of plumb's first, which fills it, and of its later ones."""

    pipeline: Pipeline
    best: Config
    best_seconds: list[float]
    chosen: Config
    filling_seconds: float
    chosen_seconds: list[float]

    @property
    def gain(self) -> tuple[float, float, float]:
        """Speedup of plumb's later epochs, and the bootstrap interval over pairs of epochs."""
        ratios = np.array(self.best_seconds) / np.array(self.chosen_seconds)
        draws = np.random.default_rng(0).choice(ratios, size=(_RESAMPLES, len(ratios)))
        low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
        return float(np.median(ratios)), float(low), float(high)


def compare(pipeline: Pipeline, torchs: Sequence[Config], effort: Effort, epochs: int) -> Comparison:
    """Find both configurations, and run their epochs by turns."""
    loader = pipeline.loader
    uncached = by_turns(
        [torch_contender(loader, config) for config in torchs],
        stream_of(loader),
        pipeline.batch_size,
        effort.turns,
        effort.window_seconds,
    )
    best_config = best(uncached).contender.config
    tuned = tune_loader(loader, effort.budget_seconds)
    say(f"caching: plumb chose {tuned.config} in {tuned.seconds:.0f} s")
    plain = DataLoader(loader.dataset, loader.batch_size, shuffle=True, **best_config.loader_arguments())
    chosen = tuned.make(tuned.config, None)
    seconds_of_an_epoch(plain)
    reuse = tuned.config.allocator_reuse
    filling = seconds_of_an_epoch(chosen, reuse=reuse)
    pairs = [(seconds_of_an_epoch(plain), seconds_of_an_epoch(chosen, reuse=reuse)) for _ in range(epochs)]
    return Comparison(
        pipeline, best_config, [one for one, _ in pairs], tuned.config, filling, [other for _, other in pairs]
    )


def seconds_of_an_epoch(loader: DataLoader[Any], step_seconds: float = 0.0, reuse: bool = False) -> float:
    """One pass over all batches, by the clock, with the start of workers where they do not persist.

    A step that leaves the CPU alone, as an accelerator's does, takes `step_seconds` after each batch. With `reuse`,
    this process uses its memory again, as on a plan that says so.
    """
    begun = time.perf_counter()
    with malloc_reuse(reuse):
        for _ in loader:
            time.sleep(step_seconds)
    return time.perf_counter() - begun


def row(comparison: Comparison) -> list[str]:
    """One line of the table."""
    samples = len(comparison.pipeline.dataset)
    gain, low, high = comparison.gain
    return [
        comparison.pipeline.name,
        str(comparison.best),
        f"{samples / median(comparison.best_seconds):,.0f}",
        str(comparison.chosen),
        f"{samples / comparison.filling_seconds:,.0f}",
        f"{samples / median(comparison.chosen_seconds):,.0f}",
        f"{gain:.2f} [{low:.2f}, {high:.2f}]",
    ]


def main() -> None:
    """Print the results and write them."""
    parser = results.arguments(__doc__, FULL)
    results.add_pipelines(parser, PIPELINES)
    asked = parser.parse_args()
    effort, epochs, torchs = FULL, EPOCHS, knobs.TORCHS
    if asked.quick:
        effort, epochs, torchs = QUICK, QUICK_EPOCHS, knobs.TORCHS[::4]
    say(f"caching: {len(torchs)} configurations of torch's, {effort.turns} turns, {epochs} epochs for each pipeline")
    comparisons = []
    for pipeline in made(asked.only):
        say(f"caching: {pipeline.name}")
        comparisons.append(compare(pipeline, torchs, effort, epochs))
    head = ["pipeline", "best without a cache", "samples/s", "plumb's choice", "first epoch", "later epochs", "factor"]
    lines = [
        f"{epochs} epochs of each by turns, by the clock; samples per second.",
        "",
        *table(head, [row(comparison) for comparison in comparisons]),
    ]
    publish(
        "caching",
        "Caching in the middle of a sample",
        lines,
        keep=not asked.quick and set(asked.only) >= set(PIPELINES),
    )


if __name__ == "__main__":
    main()
