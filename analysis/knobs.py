"""The configurations of a full grid, over the knobs that a pipeline has."""

import itertools
import random
from collections.abc import Sequence

from analysis.pipelines.pipeline import Pipeline
from plumb.core.config import Config
from plumb.tuning.search.optuna_space import Space

# What a careful user of torch's loader would try by hand.
TORCHS = (Config(0), *(Config(workers, prefetch, True) for workers in (1, 2, 3, 4) for prefetch in (2, 4)))


def grid(pipeline: Pipeline, space: Space) -> list[Config]:
    """Every combination of the pipeline's worker counts with all else that plumb may choose, as far as it fits.

    Whether workers persist is no dimension: they do, as that is never slower.
    """
    search_space = space.search_space
    counts = [count for count in pipeline.worker_counts if count in search_space.num_workers]
    return [
        config
        for workers in counts
        for prefetch in (search_space.prefetch_factor if workers else (None,))
        for (threads, until), cache, deferred, reuse in itertools.product(
            search_space.fetch, search_space.caches, search_space.deferrals, search_space.allocator_reuse
        )
        if fits(
            space,
            config := Config(
                workers,
                prefetch,
                workers > 0,
                fetch_threads=threads,
                fetch_until=until,
                cache=cache,
                deferred=deferred,
                allocator_reuse=reuse,
            ),
        )
    ]


def fits(space: Space, config: Config) -> bool:
    """Return whether `config` keeps all limits, and doesn't contradict itself."""
    return all(excess <= 0 for excess in space.excess(config))


def thinned(configs: Sequence[Config], at_most: int) -> list[Config]:
    """All that torch's own loader can do, and of the rest a seeded choice, in their order."""
    rest = [config for config in configs if config.needs_runtime]
    room = max(0, at_most - (len(configs) - len(rest)))
    kept = set(random.Random(0).sample(rest, min(room, len(rest))))
    return [config for config in configs if not config.needs_runtime or config in kept]


def varied(pipeline: Pipeline, space: Space, at_most: int) -> list[Config]:
    """Return configurations that differ in all that the model must know.

    These are each worker count, deep and shallow, with persistent workers and without, and a seeded choice of those
    that plumb's runtime adds.
    """
    plain = [Config(0)]
    for workers in pipeline.worker_counts[1:]:
        plain += [Config(workers, 2, False), Config(workers, 4, True)]
    added = [config for config in grid(pipeline, space) if config.needs_runtime]
    return plain + thinned(added, at_most - len(plain))
