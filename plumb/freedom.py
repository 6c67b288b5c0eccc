"""What a tuning may change of a loader: torch's own arguments, and the rewrites that were found to be harmless."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from plumb.config import CacheChoice, Config, StartMethod
from plumb.lengths import length_of
from plumb.model import planner
from plumb.model.situation import PREFETCH_FACTORS, CutCost, Freedom, Situation
from plumb.notes import not_forked
from plumb.offers import Offers
from plumb.options import Options
from plumb.restraint import FREE, Restraint
from plumb.runtime.inherited import Handle
from plumb.runtime.main_module import main_is_guarded, start_method
from plumb.runtime.saved_state import is_stateful
from plumb.runtime.sent import why_not_sent
from plumb.runtime.sharding import Sharding

# Torch's own threads in a worker are worth a trial where they make a batch so many times as fast.
_THREADS_HELP = 1.25
# A store may take this share of what memory, shared memory or the disk have left.
_SHARE_OF_MEMORY, _SHARE_OF_DISK = 0.5, 0.9
# A store for fewer samples than this share of them isn't worth its memory.
_WORTH_STORING = 0.05


def freedom_of(
    loader: DataLoader[Any],
    own: Config,
    options: Options,
    offers: Offers,
    situation: Situation,
    sharding: Sharding,
    start: WorkerStart,
    pins: bool,
) -> Freedom:
    """All that may be changed of `loader`, whose configuration is `own` now.

    `sharding` is about iterable datasets, `start` says how workers may be started, and `pins` whether batches are to
    lie in page-locked memory, which is for the step's sake: no loader's own rate shows what it is worth.
    """
    threads = tuple((found.threads, found.until) for found in offers.threads)
    cores = whole_cores(options.limits.cpus)
    freedom = Freedom(
        num_workers=_worker_counts(loader, own, options, situation, sharding, start),
        prefetch_factor=tuple(sorted({*PREFETCH_FACTORS, own.prefetch_factor or 2})),
        # The order of every later epoch hangs on whether workers persist (runtime/epochs.py).
        persistent_workers=(own.persistent_workers,) if own.persistent_workers or start.keeps_count else (False, True),
        pin_memory=(pins,),
        worker_torch_threads=(1, cores) if situation.torch_threads_speedup > _THREADS_HELP else (1,),
        in_order=(True, False) if options.may_reorder and not start.keeps_count else (own.in_order,),
        fetch=((1, None), *threads),
        caches=(None, *_caches(loader, options, offers.cuts, situation)),
        deferrals=((), *(found.operators for found in offers.deferrals)),
        allocator_reuse=(False, True) if situation.allocator is not None else (False,),
        start_method=start.method,
    )
    return freedom.plainly() if options.plain else freedom


@dataclass(frozen=True)
class WorkerStart:
    """How workers are started, None for the way that the script has chosen; or `why_not`, for the user to read.

    Where it `keeps_count`, the number of workers stays the script's own, and whether they persist, too.
    """

    method: StartMethod | None = None
    why_not: str | None = None
    keeps_count: bool = False


def worker_start(
    loader: DataLoader[Any], own: Config, held: Sequence[Handle], restraint: Restraint = FREE
) -> WorkerStart:
    """How workers may be started for this loader.

    `held` is what the dataset holds that forked workers must not use; a dataset that leaves it out when it is pickled
    may have spawned ones. What the user has started workers for, may be given others in the same way. A worker that
    isn't forked is sent everything, and runs the main module's code once more. `restraint` says what was found out
    about the samples.
    """
    if is_stateful(loader) or restraint.other_workers:
        return WorkerStart(keeps_count=True)
    if restraint.workers:
        return WorkerStart(why_not=restraint.workers)
    method = start_method(context=loader.multiprocessing_context)
    if own.num_workers or (method == "fork" and not held and not restraint.forked):
        return WorkerStart()
    if method == "fork":
        is_sent = not isinstance(loader.dataset, IterableDataset) and main_is_guarded() and why_not_sent(loader) is None
        return WorkerStart("spawn") if is_sent else WorkerStart(why_not=not_forked(held, restraint.forked))
    if not main_is_guarded():
        return WorkerStart(
            why_not=f"no workers were tried: Python starts them by {method}, so they would run your script once more; "
            "put its main part under: if __name__ == '__main__'"
        )
    unsent = why_not_sent(loader)
    why_not = f"no workers were tried: Python starts them by {method}, and {unsent}" if unsent else None
    return WorkerStart(why_not=why_not)


def whole_cores(cpus: float) -> int:
    """How many processes can compute all the time; one where the host's cores are not known."""
    return max(1, math.floor(cpus)) if math.isfinite(cpus) else 1


def counts_to_verify(own: Config, options: Options, situation: Situation) -> list[int]:
    """The worker counts that are worth an epoch of an iterable dataset each, the most promising first."""
    cores = whole_cores(options.limits.cpus)
    possible = planner.worker_counts(situation.cost_in_worker, situation.limits, situation.step_samples_per_second)
    return [count for count in dict.fromkeys((cores, 2 * cores, 1)) if count in possible and count != own.num_workers]


def _worker_counts(
    loader: DataLoader[Any],
    own: Config,
    options: Options,
    situation: Situation,
    sharding: Sharding,
    start: WorkerStart,
) -> tuple[int, ...]:
    if start.keeps_count:
        return (own.num_workers,)
    if start.why_not is not None:
        return (0,)
    if isinstance(loader.dataset, IterableDataset):
        # Other counts may deliver samples more than once, or lose some, and even where they don't the order may change.
        verified = (*sharding.same, *(sharding.reordered if options.may_reorder else ()))
        return tuple(sorted({own.num_workers, *verified}))
    return planner.worker_counts(situation.cost_in_worker, situation.limits, situation.step_samples_per_second)


def _caches(
    loader: DataLoader[Any], options: Options, cuts: tuple[CutCost, ...], situation: Situation
) -> list[CacheChoice]:
    """A store for each cut, in memory and on the disk, as far as the user and the host allow it."""
    samples = length_of(loader.dataset)
    if samples is None:
        return []
    limits = options.limits
    free = max(0.0, limits.memory_bytes - situation.footprint.main_bytes)
    asked = math.inf if options.cache_memory_bytes is None else options.cache_memory_bytes
    in_memory = min(_SHARE_OF_MEMORY * min(free, limits.shm_bytes), asked)
    choices = [planner.cache_choice(cut, in_memory, samples) for cut in cuts]
    if options.cache_folder is not None:
        on_disk = _SHARE_OF_DISK * limits.disk_bytes
        choices += [planner.cache_choice(cut, on_disk, samples, options.cache_folder) for cut in cuts if cut.outlives]
    return [choice for choice in choices if choice.hit_ratio >= _WORTH_STORING]
