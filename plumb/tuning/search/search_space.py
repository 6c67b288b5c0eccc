"""Search space of a loader's tuning: torch's own arguments, and the validated rewrites."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from plumb.core.config import CacheChoice, Config, StartMethod
from plumb.core.sized import length_of
from plumb.instrument.fork_safety import Handle
from plumb.instrument.main_module import main_is_guarded, start_method
from plumb.instrument.picklability import pickling_error
from plumb.instrument.saved_state import is_stateful
from plumb.model import planner
from plumb.model.inputs import PREFETCH_FACTORS, CutCost, ModelInputs, SearchSpace
from plumb.rewrites.find_rewrites import AvailableRewrites
from plumb.tuning.iterable_sharding import Sharding
from plumb.tuning.options import Options
from plumb.tuning.restraint import FREE, Restraint

_NAMED = 3

# Torch's threads in a worker are worth a trial if they make a batch this many times as fast.
_THREADS_HELP = 1.25
# Largest share of the free memory or shared memory, and of the free disk, for a store.
_SHARE_OF_MEMORY, _SHARE_OF_DISK = 0.5, 0.9
# A store for less than this share of the samples isn't worth its memory.
_WORTH_STORING = 0.05


def find_search_space(
    loader: DataLoader[Any],
    own: Config,
    options: Options,
    available: AvailableRewrites,
    inputs: ModelInputs,
    sharding: Sharding,
    start: WorkerStart,
    pins: bool,
) -> SearchSpace:
    """Return everything that a tuning may change.

    Args:
        loader: The loader.
        own: Its present configuration.
        options: The user's limits and permissions.
        available: Validated rewrites.
        inputs: Model inputs.
        sharding: Result of comparing an iterable dataset's epochs.
        start: Possible start of workers.
        pins: Whether batches are to lie in page-locked memory. That speeds up the step, so it doesn't show in a
            loader's own rate.
    """
    threads = tuple((found.threads, found.until) for found in available.threads)
    cores = whole_cores(options.limits.cpus)
    search_space = SearchSpace(
        num_workers=_worker_counts(loader, own, options, inputs, sharding, start),
        prefetch_factor=tuple(sorted({*PREFETCH_FACTORS, own.prefetch_factor or 2})),
        # The order of every later epoch depends on whether workers persist (runtime/epoch_start.py).
        persistent_workers=(own.persistent_workers,) if own.persistent_workers or start.keeps_count else (False, True),
        pin_memory=(pins,),
        worker_torch_threads=(1, cores) if inputs.torch_threads_speedup > _THREADS_HELP else (1,),
        in_order=(True, False) if options.may_reorder and not start.keeps_count else (own.in_order,),
        fetch=((1, None), *threads),
        caches=(None, *_caches(loader, options, available.cuts, inputs)),
        deferrals=((), *(found.operators for found in available.deferrals)),
        allocator_reuse=(False, True) if inputs.allocator is not None else (False,),
        start_method=start.method,
    )
    return search_space.plainly() if options.plain else search_space


@dataclass(frozen=True)
class WorkerStart:
    """Start method of workers; None for the script's own. `why_not` is a reason against workers, for the user.

    If `keeps_count`, the number of workers and their persistence stay the script's own.
    """

    method: StartMethod | None = None
    why_not: str | None = None
    keeps_count: bool = False


def worker_start(
    loader: DataLoader[Any], own: Config, held: Sequence[Handle], restraint: Restraint = FREE
) -> WorkerStart:
    """Return how workers may be started for a loader.

    Workers that the user starts already are started in the same way. Otherwise a dataset that omits `held` when it is
    pickled may have spawned workers. A worker that isn't forked gets everything by pickle, and runs the main module's
    code again.

    Args:
        loader: The loader.
        own: Its configuration.
        held: Objects of the dataset that forked workers must not use.
        restraint: Restrictions that were found while samples were observed.
    """
    if is_stateful(loader) or restraint.other_workers:
        return WorkerStart(keeps_count=True)
    if restraint.workers:
        return WorkerStart(why_not=restraint.workers)
    method = start_method(context=loader.multiprocessing_context)
    if own.num_workers or (method == "fork" and not held and not restraint.forked):
        return WorkerStart()
    if method == "fork":
        is_sent = (
            not isinstance(loader.dataset, IterableDataset) and main_is_guarded() and pickling_error(loader) is None
        )
        return WorkerStart("spawn") if is_sent else WorkerStart(why_not=why_not_forked(held, restraint.forked))
    if not main_is_guarded():
        return WorkerStart(
            why_not=f"no workers were tried: Python starts them by {method}, so they would run your script once more; "
            "put its main part under: if __name__ == '__main__'"
        )
    unsent = pickling_error(loader)
    why_not = f"no workers were tried: Python starts them by {method}, and {unsent}" if unsent else None
    return WorkerStart(why_not=why_not)


def whole_cores(cpus: float) -> int:
    """Return the number of processes that can compute all the time; 1 if the number of cores is unknown."""
    return max(1, math.floor(cpus)) if math.isfinite(cpus) else 1


def counts_to_verify(own: Config, options: Options, inputs: ModelInputs) -> list[int]:
    """Return the worker counts that are worth comparing an iterable dataset's epoch for, the most promising first."""
    cores = whole_cores(options.limits.cpus)
    possible = planner.worker_counts(inputs.cost_in_worker, inputs.limits, inputs.step_samples_per_second)
    return [count for count in dict.fromkeys((cores, 2 * cores, 1)) if count in possible and count != own.num_workers]


def _worker_counts(
    loader: DataLoader[Any],
    own: Config,
    options: Options,
    inputs: ModelInputs,
    sharding: Sharding,
    start: WorkerStart,
) -> tuple[int, ...]:
    if start.keeps_count:
        return (own.num_workers,)
    if start.why_not is not None:
        return (0,)
    if isinstance(loader.dataset, IterableDataset):
        # With other counts an iterable dataset may repeat or lose samples, or change their order.
        verified = (*sharding.same, *(sharding.reordered if options.may_reorder else ()))
        return tuple(sorted({own.num_workers, *verified}))
    return planner.worker_counts(inputs.cost_in_worker, inputs.limits, inputs.step_samples_per_second)


def _caches(
    loader: DataLoader[Any], options: Options, cuts: tuple[CutCost, ...], inputs: ModelInputs
) -> list[CacheChoice]:
    """Return a store for each cut, in memory and on the disk, within the user's and the host's limits."""
    samples = length_of(loader.dataset)
    if samples is None:
        return []
    limits = options.limits
    free = max(0.0, limits.memory_bytes - inputs.footprint.main_bytes)
    asked = math.inf if options.cache_memory_bytes is None else options.cache_memory_bytes
    in_memory = min(_SHARE_OF_MEMORY * min(free, limits.shm_bytes), asked)
    choices = [planner.cache_choice(cut, in_memory, samples) for cut in cuts]
    if options.cache_folder is not None:
        on_disk = _SHARE_OF_DISK * limits.disk_bytes
        choices += [planner.cache_choice(cut, on_disk, samples, options.cache_folder) for cut in cuts if cut.outlives]
    return [choice for choice in choices if choice.hit_ratio >= _WORTH_STORING]


def why_handles_matter(held: Sequence[Handle], own_workers: int = 0, method: str | None = None) -> str:
    """Return a sentence on the dataset's objects that a fork would break, and what to write instead.

    `method` is the start method that is used then.
    """
    what = f"the dataset holds {', '.join(map(str, held[:_NAMED]))}"
    if own_workers:
        return f"{what}, which workers that are forked share with each other; open it in the first sample of each"
    if method:
        return f"{what}, which forked workers would share, but can be sent to others: workers are started by {method}"
    return f"{what}, which forked workers would share: none were tried. Open it in the first sample, not before"


def why_not_forked(held: Sequence[Handle], reason: str | None, method: str | None = None) -> str:
    """Return a sentence on why workers are not forked: the dataset's objects, or a forked process's failed sample."""
    if held or not reason:
        return why_handles_matter(held, method=method)
    return f"{reason}: workers are started by {method}" if method else f"{reason}: no workers were tried"
