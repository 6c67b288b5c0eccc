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
from plumb.runtime.cache import MISSING, Store
from plumb.runtime.chunks import BatchRecipe
from plumb.runtime.codec import encode
from plumb.runtime.deferred import DeferredBatch, DeferringCollate, device_of, run
from plumb.runtime.fetch import Fetch, Fetching
from plumb.runtime.replay import Replay
from plumb.runtime.stored import Stored

TURNS = 3
"""How often each batch is made in either way; and once more, unless it is a store's, as the first time teaches."""

# No batch takes less CPU than this: coarse clocks may say so.
_LEAST_SECONDS = 1e-7


@dataclass(frozen=True)
class StoreSavings:
    """Per sample: the bytes that it takes in a store, the CPU seconds to read it, and the seconds to write it.

    `saved_share` is what is saved of the CPU seconds of a plain sample, its part of collate included, where one is made
    of the stored value instead; negative where that takes longer.
    """

    value_bytes: float
    read_seconds: float
    write_seconds: float
    saved_share: float


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
    keys = [str(place).encode() for place in range(len(indices))]
    store.put_many([(key, value, ()) for key, value in zip(keys, encoded, strict=True)])
    write_seconds = (time.perf_counter() - begin) / len(indices)
    del values, encoded
    hits = [(index, key) for index, key in zip(indices, keys, strict=True) if store.get(key) is not MISSING]
    if not hits:
        return None
    reads, shares = [], []
    with one_torch_thread():
        for _ in range(TURNS):
            # Whole batches: what fresh memory costs hangs on how much of it is held at once.
            plain = _cpu_seconds(lambda: collate([dataset[index] for index, _ in hits]))
            hit = _cpu_seconds(lambda: collate([replay.sample_from(index, store.get(key)) for index, key in hits]))
            reads.append(_cpu_seconds(lambda: [store.get(key) for _, key in hits]) / len(hits))
            shares.append(hit / max(plain, _LEAST_SECONDS))
    return StoreSavings(store.used_bytes / len(indices), median(reads), write_seconds, 1.0 - median(shares))


@dataclass(frozen=True)
class DeferralSavings:
    """What a process that makes batches saves, as a share of a plain one's CPU seconds, and what finishing one takes:
    CPU seconds per sample.
    """

    saved_share: float
    main_seconds: float


def deferral_savings(loader: DataLoader[Any], deferral: Deferral, indices: Sequence[Any]) -> DeferralSavings | None:
    """What deferring saves on a batch of `indices`; None where its operators are not deferred after all.

    Raises what the dataset and the collate function raise.
    """
    dataset, collate = loader.dataset, loader.collate_fn
    fetching, deferring = Fetching(dataset, Fetch(deferral=deferral)), DeferringCollate(collate)
    recipe: BatchRecipe | None = None
    saved, finishing = [], []
    with one_torch_thread():
        for _ in range(1 + TURNS):
            plain = _cpu_seconds(lambda: collate([dataset[index] for index in indices]))
            begin = time.thread_time()
            batch = deferring(fetching.__getitems__(indices))
            saved.append(1.0 - (time.thread_time() - begin) / max(plain, _LEAST_SECONDS))
            if isinstance(batch, DeferredBatch):
                recipe = recipe or BatchRecipe(batch.recipe)
                finishing.append(_cpu_seconds(partial(run, batch, recipe, device_of(deferral))))
            del batch
    # The first time, operators are made one by one, to learn from.
    if len(finishing) < TURNS:
        return None
    return DeferralSavings(median(saved[1:]), median(finishing[1:]) / len(indices))


def _cpu_seconds(work: Callable[[], Any]) -> float:
    begin = time.thread_time()
    work()
    return time.thread_time() - begin
