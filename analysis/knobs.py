"""The configurations of a full grid, over the knobs that a pipeline has."""

import itertools
import random
from collections.abc import Sequence

from analysis.pipelines.pipeline import Pipeline
from plumb.plan import CacheChoice, Config, Rewrites

_PREFETCH = (2, 4, 8)
_FETCH_THREADS = (8, 32)
_CACHE_BYTES = 4 << 30
# What a careful user of torch's loader would try by hand.
TORCHS = (Config(0), *(Config(workers, prefetch, True) for workers in (1, 2, 3, 4) for prefetch in (2, 4)))


def grid(pipeline: Pipeline, rewrites: Rewrites) -> list[Config]:
    """Every combination of worker count, prefetch depth, and what plumb's runtime may add to this pipeline.

    Whether workers persist is no dimension: they do, as that is never slower. An iterable dataset's worker count is
    part of its meaning, and stays.
    """
    counts = (pipeline.num_workers,) if pipeline.is_iterable else pipeline.worker_counts
    threads = [(1, None), *itertools.product(_FETCH_THREADS, (cut or None for cut in rewrites.threads_until))]
    caches = [None, *(CacheChoice(cut.after, "memory", _CACHE_BYTES, 1.0) for cut in rewrites.cuts)]
    deferrals = [()] + ([tuple(step.operator for step in rewrites.deferral.steps)] if rewrites.deferral else [])
    return [
        Config(
            workers,
            prefetch,
            workers > 0,
            fetch_threads=fetch_threads,
            fetch_until=until,
            cache=cache,
            deferred=deferred,
        )
        for workers in counts
        for prefetch in (_PREFETCH if workers else (None,))
        for (fetch_threads, until), cache, deferred in itertools.product(threads, caches, deferrals)
    ]


def sample(pipeline: Pipeline, rewrites: Rewrites, at_most: int) -> list[Config]:
    """Configurations that differ in everything that the model must know: each worker count, deep and shallow, with
    workers that persist and without, and a seeded choice of those that plumb's runtime adds.
    """
    plain = [Config(0)]
    for workers in pipeline.worker_counts[1:]:
        plain += [Config(workers, 2, False), Config(workers, 4, True)]
    added = [config for config in grid(pipeline, rewrites) if _is_added(config)]
    return plain + _some(added, at_most - len(plain))


def _is_added(config: Config) -> bool:
    return config.fetch_threads > 1 or config.cache is not None or bool(config.deferred)


def _some(configs: Sequence[Config], count: int) -> list[Config]:
    return random.Random(0).sample(configs, min(max(count, 0), len(configs)))
