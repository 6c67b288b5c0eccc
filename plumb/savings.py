"""What a rewrite saves: samples made as a loader would make them with it, by turns with the plain ones.

Shares of operators don't add up to what is saved: a rewrite has a cost of its own for each sample, and memory that is
fresh, or no longer is, costs as much as some operators. And they are shares of what a plain batch costs at the same
moment: the host may be faster or slower when it is asked the next time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from torch.utils.data import DataLoader

from plumb.config import CacheChoice, Cut, Deferral
from plumb.profile.threads import one_torch_thread
from plumb.runtime.allocator import reusing
from plumb.runtime.cache import MISSING, Store, key_of
from plumb.runtime.chunks import BatchRecipe
from plumb.runtime.codec import encode
from plumb.runtime.deferred import DeferredBatch, DeferringCollate, device_of, run
from plumb.runtime.fetch import Fetch, Fetching
from plumb.runtime.replay import Replay
from plumb.runtime.stored import Stored

TURNS = 3
"""How often each batch is made in either way."""

# No batch takes less CPU than this: coarse clocks may say so.
_LEAST_SECONDS = 1e-7


@dataclass(frozen=True)
class Left:
    """What is left of the CPU seconds of a plain sample, its part of collate in both, as a share of them.

    `reusing` is the same where what is left is done in reused memory. Above 1 where it takes longer than a plain one.
    """

    plainly: float
    reusing: float


@dataclass(frozen=True)
class StoreSavings:
    """Per sample: the bytes that it takes in a store, the seconds to write it, and what is left where it is read."""

    value_bytes: float
    write_seconds: float
    left: Left


def store_savings(loader: DataLoader[Any], cut: Cut, indices: Sequence[Any]) -> StoreSavings | None:
    """What a store at `cut` saves on a batch of `indices`; None where it takes none of their values.

    Raises EncodeError, StoreError, and what the dataset and the collate function raise.
    """
    dataset, collate = loader.dataset, loader.collate_fn
    replay = Replay(dataset, cut)
    values = [replay.prefix(index) for index in indices]
    begin = time.perf_counter()
    encoded = [encode(value) for value in values]
    size = 2 * sum(map(len, encoded)) + 2**20
    # Kept here: the store is removed when nobody has it any more.
    stored = Stored(dataset, cut, CacheChoice(cut.after, "memory", size, 1.0), apart="-timed")
    store = Store(stored.spec)
    records = [(key, value, ()) for index, value in zip(indices, encoded, strict=True) if (key := key_of(index))]
    store.put_many(records)
    write_seconds = (time.perf_counter() - begin) / len(indices)
    del values, encoded
    if not records or all(store.get(key) is MISSING for key, _, _ in records):
        return None
    fetching = Fetching(dataset, Fetch(cut=cut, spec=stored.spec, is_frozen=True))

    def hit() -> float:
        begin = time.thread_time()
        samples = fetching.__getitems__(indices)
        assert isinstance(samples, list)
        collate(samples)
        return time.thread_time() - begin

    with one_torch_thread():
        # Whole batches: what fresh memory costs hangs on how much of it is held at once.
        hit()
        pairs = [(_cpu_seconds(lambda: collate([dataset[index] for index in indices])), hit()) for _ in range(TURNS)]
        with reusing(True):
            again = [hit() for _ in range(1 + TURNS)][1:]
    return StoreSavings(store.used_bytes / len(indices), write_seconds, _left(pairs, again))


@dataclass(frozen=True)
class DeferralSavings:
    """What is left for a process that makes samples, and what finishing a batch takes: CPU seconds per sample.

    `main_seconds_reusing` is the latter where the process that finishes batches uses its memory again.
    """

    left: Left
    main_seconds: float
    main_seconds_reusing: float


def deferral_savings(loader: DataLoader[Any], deferral: Deferral, indices: Sequence[Any]) -> DeferralSavings | None:
    """What deferring saves on a batch of `indices`; None where its operators are not deferred after all.

    Raises what the dataset and the collate function raise.
    """
    dataset, collate = loader.dataset, loader.collate_fn
    fetching, deferring = Fetching(dataset, Fetch(deferral=deferral)), DeferringCollate(collate)
    recipe: BatchRecipe | None = None

    def deferred() -> tuple[float, float | None]:
        """Seconds to make a batch and to finish it, None where there is nothing to finish."""
        nonlocal recipe
        begin = time.thread_time()
        batch = deferring(fetching.__getitems__(indices))
        making = time.thread_time() - begin
        if not isinstance(batch, DeferredBatch):
            return making, None
        recipe = recipe or BatchRecipe(batch.recipe)
        return making, _cpu_seconds(partial(run, batch, recipe, device_of(deferral)))

    with one_torch_thread():
        # The first time, operators are made one by one, to learn from.
        deferred()
        pairs = [
            (_cpu_seconds(lambda: collate([dataset[index] for index in indices])), deferred()) for _ in range(TURNS)
        ]
        with reusing(True):
            again = [deferred() for _ in range(1 + TURNS)][1:]
    finishing = [seconds for _, (_, seconds) in pairs if seconds is not None]
    finishing_again = [seconds for _, seconds in again if seconds is not None]
    if not finishing or not finishing_again:
        return None
    return DeferralSavings(
        _left([(plain, making) for plain, (making, _) in pairs], [making for making, _ in again]),
        median(finishing) / len(indices),
        median(finishing_again) / len(indices),
    )


def _left(pairs: Sequence[tuple[float, float]], reusing: Sequence[float]) -> Left:
    """Of the seconds of plain batches, each with those of what is left of it, and those of the latter when reusing."""
    plain = max(median(plain for plain, _ in pairs), _LEAST_SECONDS)
    return Left(median(left / max(plain, _LEAST_SECONDS) for plain, left in pairs), median(reusing) / plain)


def _cpu_seconds(work: Callable[[], Any]) -> float:
    begin = time.thread_time()
    work()
    return time.thread_time() - begin
