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

from plumb.config import CacheChoice, Cut
from plumb.model.situation import Left
from plumb.profile.threads import one_torch_thread
from plumb.runtime.allocator import give_back_what_is_free, reusing
from plumb.runtime.cache import MISSING, Store, key_of
from plumb.runtime.chunks import BatchRecipe
from plumb.runtime.codec import encode
from plumb.runtime.deferred import DeferredBatch, DeferringCollate, device_of, run
from plumb.runtime.fetch import Fetch, Fetching
from plumb.runtime.replay import Replay
from plumb.runtime.stored import Stored

MOST_TURNS = 3
"""So many turns in fresh memory, and again in reused memory, tell what is saved; one does where there is no time."""

# Turns that differ by more than this factor are of fresh memory and of used memory; then so many show both.
_STEADY, _TURNS_AT_MOST, _STEADY_SECONDS = 1.5, 9, 0.5

# Batches that take longer are not held up by what other work has left in the caches.
_SOON_SECONDS = 0.02

# No batch takes less CPU than this: coarse clocks may say so.
_LEAST_SECONDS = 1e-7


def plain_loads(turns: int) -> int:
    """How often `savings` makes its batches plainly: so many turns in fresh and in reused memory, one in between."""
    return 2 * turns + 1


def rewritten_loads(turns: int) -> int:
    """How often it makes them rewritten: once to learn from, twice to be finished, and as often as plainly.

    Those that are soon made, it makes more often.
    """
    return 3 + plain_loads(turns)


@dataclass(frozen=True)
class Filled:
    """A store with the values of a few samples: the bytes that each takes there, and the seconds to write one."""

    stored: Stored
    value_bytes: float
    write_seconds: float


def filled(dataset: Any, cut: Cut, indices: Sequence[Any]) -> Filled | None:
    """A store of the values at `cut` of the samples at `indices`; None where it takes none of them.

    Raises EncodeError, StoreError, and what the dataset raises.
    """
    replay = Replay(dataset, cut)
    values = [replay.prefix(index) for index in indices]
    begin = time.perf_counter()
    encoded = [encode(value) for value in values]
    encode_seconds = time.perf_counter() - begin
    size = 2 * sum(map(len, encoded)) + 2**20
    stored = Stored(dataset, cut, CacheChoice(cut.after, "memory", size, 1.0), apart="-timed")
    store = Store(stored.spec)
    records = [(key, value, ()) for index, value in zip(indices, encoded, strict=True) if (key := key_of(index))]
    # What comes first opens the store, which is no part of writing a sample.
    store.put_many(records[:1])
    begin = time.perf_counter()
    store.put_many(records[1:])
    put_seconds = time.perf_counter() - begin
    if all(store.get(key) is MISSING for key, _, _ in records):
        return None
    write_seconds = encode_seconds / len(indices) + put_seconds / max(len(records) - 1, 1)
    return Filled(stored, store.used_bytes / len(indices), write_seconds)


@dataclass(frozen=True)
class Savings:
    """What is left for a process that makes samples, and what it takes to finish those of which operators are deferred.

    The latter are CPU seconds of the main process per sample, and `main_seconds_reusing` those where it uses its memory
    again; 0 where nothing is deferred.
    """

    left: Left
    main_seconds: float
    main_seconds_reusing: float


# CPU seconds of the same batches, made plainly and rewritten.
_Turn = tuple[float, float]


class _NotDeferredError(Exception):
    """A batch takes another way than the one on which its operators are deferred."""


def savings(
    loader: DataLoader[Any], fetch: Fetch, batches: Sequence[Sequence[Any]], turns: int = MOST_TURNS
) -> Savings | None:
    """What is saved on batches that are made as `fetch` says, by turns with plain ones; `batches` holds their indices.

    None where their operators are not deferred after all. Raises what the dataset and the collate function raise.
    """
    dataset, collate = loader.dataset, loader.collate_fn
    rewritten = _Rewritten(loader, fetch)
    try:
        with one_torch_thread():
            # The first time, operators are made one by one, to learn from.
            rewritten.made(batches[0])

            # Whole batches: what fresh memory costs hangs on how much of it is held at once.
            def plain(indices: Sequence[Any]) -> Any:
                return collate([dataset[index] for index in indices])

            def plainly() -> float:
                return sum(_cpu_seconds(partial(plain, indices)) for indices in batches)

            def by_itself() -> float:
                # A plain batch leaves its own code and data in the caches, and a core that has slept while it waited.
                seconds = rewritten.making_seconds(batches)
                return seconds if seconds > _SOON_SECONDS else rewritten.making_seconds(batches)

            def turn() -> _Turn:
                return plainly(), by_itself()

            finishing = rewritten.finishing_seconds(batches[0], turns)
            fresh = _until_steady(turn, turns)
            with reusing(True):
                finishing_reusing = rewritten.finishing_seconds(batches[0], turns)
                # In the first turn, some of the memory is still fresh.
                turn()
                again = _until_steady(turn, turns)
    except _NotDeferredError:
        return None
    left_reusing = _left(again)
    # Otherwise it is the blocks that are fresh by chance, and not the rewrite, which make the difference.
    left = _left(fresh) if _are_steady(fresh) else left_reusing
    return Savings(Left(left, left_reusing), finishing, finishing_reusing)


class _Rewritten:
    """Makes and finishes batches as workers and the main process would, in this process."""

    def __init__(self, loader: DataLoader[Any], fetch: Fetch) -> None:
        self._fetch = fetch
        self._fetching = Fetching(loader.dataset, fetch)
        collate = DeferringCollate(loader.collate_fn) if fetch.deferral else loader.collate_fn
        self._collate: Callable[[Any], Any] = collate

    def made(self, indices: Sequence[Any]) -> Any:
        """A batch, to be finished where operators are deferred."""
        return self._collate(self._fetching.__getitems__(indices))

    def making_seconds(self, batches: Sequence[Sequence[Any]]) -> float:
        """CPU seconds to make all of them. Raises _NotDeferredError where operators should be deferred and are not."""
        return sum(_cpu_seconds(partial(self._deferred, indices)) for indices in batches)

    def finishing_seconds(self, indices: Sequence[Any], turns: int) -> float:
        """CPU seconds per sample to finish a batch; 0 where nothing is deferred. Raises _NotDeferredError.

        That is done several times in a row, after the first: what was freed when the batch was made, and would be used
        again, a process that only finishes batches does not have.
        """
        if self._fetch.deferral is None:
            return 0.0
        batch = self._deferred(indices)
        finish = partial(run, batch, BatchRecipe(batch.recipe), device_of(self._fetch.deferral))
        give_back_what_is_free()
        return median([_cpu_seconds(finish) for _ in range(1 + turns)][1:]) / len(indices)

    def _deferred(self, indices: Sequence[Any]) -> Any:
        batch = self.made(indices)
        if self._fetch.deferral is not None and not isinstance(batch, DeferredBatch):
            raise _NotDeferredError
        return batch


def _until_steady(turn: Callable[[], _Turn], at_least: int) -> list[_Turn]:
    """So many turns, and more where large blocks are fresh in some and not in others, as long as that takes no time."""
    begin, turns = time.perf_counter(), [turn() for _ in range(at_least)]
    while not _are_steady(turns) and len(turns) < _TURNS_AT_MOST and time.perf_counter() - begin < _STEADY_SECONDS:
        turns.append(turn())
    return turns


def _are_steady(turns: Sequence[_Turn]) -> bool:
    """Whether all turns but one, which something else has held up, took about as long."""
    for seconds in zip(*turns, strict=True):
        quickest, *others = sorted(seconds)
        if any(other > _STEADY * quickest for other in others[:-1]):
            return False
    return True


def _left(turns: Sequence[_Turn]) -> float:
    """What is left of a plain batch's seconds, as a share."""
    plain, rewritten = (median(seconds) for seconds in zip(*turns, strict=True))
    return float(rewritten / max(plain, _LEAST_SECONDS))


def _cpu_seconds(work: Callable[[], Any]) -> float:
    begin = time.thread_time()
    work()
    return time.thread_time() - begin
