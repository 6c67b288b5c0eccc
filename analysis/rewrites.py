"""CPU that one worker takes for a sample with stores and deferred operators: predicted, and measured.

    python -m analysis.rewrites [--quick] [--only PIPELINE...]

A tuning tells the model what each rewrite leaves, from batches that it makes in its own process. Here, loaders with one
real worker in fresh memory run by turns, one of them plain, and what their workers spend is read off the kernel. Prints
and writes `analysis/results/rewrites.md`.
"""

import math
from dataclasses import dataclass
from statistics import median

from analysis import knobs, results
from analysis.measuring import stream_of
from analysis.pipelines import made
from analysis.pipelines.pipeline import Pipeline
from analysis.results import Effort, publish, say, table
from analysis.tuned import Tuned, tune_loader
from plumb.core.config import Config
from plumb.model.demand import demand
from plumb.tuning.measure.throughput import MeasuredLoader

FULL, QUICK = Effort(4, 0.8, 30.0), Effort(1, 0.3, 6.0)
PIPELINES = ("large_batches", "bandwidth", "decoded", "spectrograms", "photos")


@dataclass(frozen=True)
class Share:
    """One rewrite: CPU microseconds of a worker for a sample, and that as a share of a plain one's, told and seen."""

    pipeline: str
    rewrite: str
    told_us: float
    seen_us: float
    told_share: float
    seen_share: float


def shares(pipeline: Pipeline, effort: Effort) -> list[Share]:
    """All rewrites that a tuning has found for a pipeline; none where it found none."""
    tuned = tune_loader(pipeline.loader, effort.budget_seconds)
    search_space, plain = tuned.choice.search_space, Config(1, 2, True)
    rewritten = [
        Config(1, 2, True, cache=cache, deferred=deferred)
        for cache in search_space.caches
        for deferred in search_space.deferrals
        if cache or deferred
    ]
    configs = [plain, *(config for config in rewritten if knobs.fits(tuned.space, config))]
    tuned.fill(configs)
    told = {config: demand(tuned.choice.inputs, config).cpu_seconds for config in configs}
    seen = _seen(pipeline, tuned, configs, effort)
    return [
        Share(
            pipeline.name,
            str(config).removeprefix(f"{plain}, "),
            told[config] * 1e6,
            seen[config] * 1e6,
            told[config] / told[plain],
            seen[config] / seen[plain],
        )
        for config in configs[1:]
    ]


def _seen(pipeline: Pipeline, tuned: Tuned, configs: list[Config], effort: Effort) -> dict[Config, float]:
    """CPU seconds of a worker for a sample, the median of all turns."""
    feeds = [
        MeasuredLoader(
            config,
            lambda indices, config=config: tuned.make(config, indices),
            stream_of(pipeline.loader),
            pipeline.batch_size,
            math.inf,
        )
        for config in configs
    ]
    seen: dict[Config, list[float]] = {config: [] for config in configs}
    try:
        for turn in range(1 + effort.turns):
            for feed in feeds:
                feed.settle()
                feed.window(effort.window_seconds)
                # In the first turn, stored values are mapped for the first time.
                if turn:
                    seen[feed.config].append(feed.usage.worker_cpu_seconds / feed.usage.samples)
                feed.settle()
    finally:
        for feed in feeds:
            feed.close()
    return {config: median(its) for config, its in seen.items()}


def report(found: list[Share]) -> list[str]:
    """Return the table, and by how much the shares are off."""
    head = ["pipeline", "rewrite", "told, us", "seen, us", "share told", "share seen", "error"]
    rows = [
        [
            share.pipeline,
            share.rewrite,
            f"{share.told_us:,.0f}",
            f"{share.seen_us:,.0f}",
            f"{share.told_share:.3f}",
            f"{share.seen_share:.3f}",
            f"{share.told_share / share.seen_share - 1:+.0%}",
        ]
        for share in found
    ]
    return table(head, rows)


def main() -> None:
    """Print the results and write them."""
    parser = results.arguments(__doc__, FULL)
    results.add_pipelines(parser, PIPELINES)
    asked = parser.parse_args()
    effort, found = QUICK if asked.quick else FULL, []
    for pipeline in made(asked.only):
        say(f"rewrites: {pipeline.name}")
        found += shares(pipeline, effort)
    lines = [
        f"One worker in fresh memory, {effort.turns} turns of windows of {effort.window_seconds:g} s. CPU of a worker "
        "for a sample, and that as a share of a plain one's.",
        "",
        *report(found),
    ]
    publish("rewrites", "What rewrites leave", lines, keep=not asked.quick and set(asked.only) >= set(PIPELINES))


if __name__ == "__main__":
    main()
