"""What a rewrite saves: samples made as a loader would make them with it, by turns with the plain ones.

Shares of operators don't add up to what is saved: a rewrite has a cost of its own for each sample, and memory that is
fresh, or no longer is, costs as much as some operators.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from torch.utils.data import DataLoader

from plumb.plan import CacheChoice, Cut, Deferral
from plumb.profile.threads import one_torch_thread
from plumb.runtime.cache import MISSING, Store
from plumb.runtime.chunks import BatchRecipe
from plumb.runtime.codec import encode
from plumb.runtime.deferred import DeferredBatch, DeferringCollate, device_of, run
from plumb.runtime.fetch import Fetch, Fetching
from plumb.runtime.replay import Replay
from plumb.runtime.stored import Stored

TURNS = 3
"""How often each sample is made in either way; and once more, unless it is a store's, as the first time teaches."""


@dataclass(frozen=True)
class StoreSavings:
    """Per sample: the bytes that it takes in a store, the seconds to read and to write it, and the CPU seconds saved.

    What is saved is the difference between a plain sample and one that is made of the stored value, reading included.
    """

    value_bytes: float
    read_seconds: float
    write_seconds: float
    saved_cpu_seconds: float


def store_savings(dataset: Any, cut: Cut, indices: Sequence[Any]) -> StoreSavings | None:
    """What a store at `cut` saves on the samples at `indices`; None where it takes none of their values.

    Raises EncodeError, StoreError, and what the dataset raises.
    """
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
    hits = [(index, key) for index, key in zip(indices, keys, strict=True) if store.get(key) is not MISSING]
    if not hits:
        return None
    reads, saved = [], []
    with one_torch_thread():
        for index, key in hits * TURNS:
            plain = _cpu_seconds(partial(operator.getitem, dataset, index))
            read = _cpu_seconds(partial(store.get, key))
            hit = _cpu_seconds(partial(_sample_of_stored, replay, store, index, key))
            reads.append(read)
            saved.append(plain - hit)
    return StoreSavings(store.used_bytes / len(indices), median(reads), write_seconds, median(saved))


@dataclass(frozen=True)
class DeferralSavings:
    """CPU seconds per sample: those that a process which makes batches saves, and those that finishing one takes."""

    saved_cpu_seconds: float
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
            saved.append(plain - (time.thread_time() - begin))
            if isinstance(batch, DeferredBatch):
                recipe = recipe or BatchRecipe(batch.recipe)
                finishing.append(_cpu_seconds(partial(run, batch, recipe, device_of(deferral))))
            del batch
    # The first time, operators are made one by one, to learn from.
    if len(finishing) < TURNS:
        return None
    return DeferralSavings(median(saved[1:]) / len(indices), median(finishing[1:]) / len(indices))


def _sample_of_stored(replay: Replay, store: Store, index: Any, key: bytes) -> Any:
    return replay.sample_from(index, store.get(key))


def _cpu_seconds(work: Callable[[], Any]) -> float:
    begin = time.thread_time()
    work()
    return time.thread_time() - begin
