"""Savings of rewrites, measured on samples made as a loader would make them, in turns with the plain ones.

Shares of operators don't add up to the savings: a rewrite has a cost of its own for each sample, and fresh memory costs
as much as some operators. Savings are relative to a plain batch at the same moment, because the host's speed may change
between measurements.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from plumb.core.config import CacheChoice, Cut
from plumb.core.errors import PlumbError
from plumb.host.malloc import malloc_reuse
from plumb.host.threads import one_torch_thread, thread_seconds
from plumb.model.inputs import RemainingCpuShare
from plumb.rewrites.batch_maker import Plain, RewrittenBatchMaker, has_room_to_share
from plumb.runtime.fetch import Fetch
from plumb.runtime.replay.replay import Replay
from plumb.runtime.store.codec import encode
from plumb.runtime.store.dataset_store import DatasetStore
from plumb.runtime.store.store import MISSING, Store, key_of

MOST_TURNS = 3
"""Number of turns in fresh memory, and again in reused memory, to measure savings; one if there is no time."""

# Turns that differ by more than this factor used fresh and reused memory; then up to so many turns show both.
_STEADY, _TURNS_AT_MOST, _STEADY_SECONDS = 1.5, 9, 0.5

# Batches that take longer are not slowed down by cold caches. Shorter ones are repeated for this time, and at most this
# often, because they may be slowed down by half.
_SOON_SECONDS, _SOON_TIMES = 0.02, 15

# Smallest CPU time of a batch, because coarse clocks may measure zero.
_LEAST_SECONDS = 1e-7


def plain_loads(turns: int) -> int:
    """Return how often `measure_savings` makes its batches plainly.

    That is `turns` times in fresh and in reused memory, and once in between, both as in a worker and as in a main
    process without workers, plus once to find the batches' size.
    """
    return 2 * (2 * turns + 1) + 1


def rewritten_loads(turns: int) -> int:
    """Return how often `measure_savings` makes them with one rewrite: as often as plainly, and four times before that.

    Fast batches are made more often.
    """
    return 4 + plain_loads(turns)


@dataclass(frozen=True)
class SampleStore:
    """A store with the values of a few samples: bytes per value, and the seconds to write and to read one."""

    stored: DatasetStore
    value_bytes: float
    write_seconds: float
    read_seconds: float


def fill_store(dataset: Any, cut: Cut, indices: Sequence[Any]) -> SampleStore | None:
    """Return a store with the values at `cut` of some samples; None if the store accepts none of them.

    Raises EncodeError, StoreError, and the dataset's errors.
    """
    replay = Replay(dataset, cut)
    values = [replay.prefix(index) for index in indices]
    begin = time.perf_counter()
    encoded = [encode(value) for value in values]
    encode_seconds = time.perf_counter() - begin
    size = 2 * sum(map(len, encoded)) + 2**20
    stored = DatasetStore(dataset, cut, CacheChoice(cut.after, "memory", size, 1.0), apart="-timed")
    store = Store(stored.spec)
    records = [(key, value, ()) for index, value in zip(indices, encoded, strict=True) if (key := key_of(index))]
    # The first record opens the store, which is no part of writing a sample.
    store.put_many(records[:1])
    begin = time.perf_counter()
    store.put_many(records[1:])
    put_seconds = time.perf_counter() - begin
    keys = [key for key, _, _ in records]
    if all(value is MISSING for value in store.get_many(keys)):
        return None
    begin = time.perf_counter()
    store.get_many(keys)
    read_seconds = time.perf_counter() - begin
    write_seconds = encode_seconds / len(indices) + put_seconds / max(len(records) - 1, 1)
    return SampleStore(stored, store.used_bytes / len(indices), write_seconds, read_seconds / len(keys))


@dataclass(frozen=True)
class Savings:
    """Remaining CPU share of a process that makes samples, and the cost of finishing deferred ones.

    The costs are CPU seconds of the main process per sample, with `main_seconds_reusing` for reused memory; 0 if
    nothing is deferred.
    """

    left: RemainingCpuShare
    main_seconds: float
    main_seconds_reusing: float


Key = TypeVar("Key", bound=Hashable)
_Batches = Sequence[Sequence[Any]]
_Make = Callable[[Sequence[Any]], Any]
# CPU seconds of the same batches, first plain, then with each rewrite.
_Turn = tuple[float, ...]


class _FailedError(PlumbError):
    """An error that one rewrite raised while it made a batch."""

    def __init__(self, way: RewrittenBatchMaker, reason: Exception) -> None:
        self.way, self.reason = way, reason


def measure_savings(
    loader: DataLoader[Any], fetches: Mapping[Key, Fetch], batches: _Batches, turns: int = MOST_TURNS
) -> dict[Key, Savings | Exception]:
    """Measure the savings of each rewrite on some batches, in turns with plain ones.

    If a rewrite raises, its error is its result (NotDeferredError if its operators are not deferred after all), and the
    others are timed without it. Raises the errors of the dataset and the collate function for plain batches.

    Args:
        loader: The loader.
        fetches: Rewrites, by any key.
        batches: Indices of the batches.
        turns: Number of turns in fresh and in reused memory.
    """
    with one_torch_thread():
        found = {key: _rewritten(loader, fetch, batches[0]) for key, fetch in fetches.items()}
    return _saved(loader, found, batches, turns)


def _saved(
    loader: DataLoader[Any], found: Mapping[Key, RewrittenBatchMaker | Exception], batches: _Batches, turns: int
) -> dict[Key, Savings | Exception]:
    ways = [way for way in found.values() if isinstance(way, RewrittenBatchMaker)]
    try:
        timed = dict(zip(ways, _timed(loader, ways, batches, turns), strict=True)) if ways else {}
    except _FailedError as failed:
        rest = {key: failed.reason if way is failed.way else way for key, way in found.items()}
        return _saved(loader, rest, batches, turns)
    return {key: timed[way] if isinstance(way, RewrittenBatchMaker) else way for key, way in found.items()}


def _timed(
    loader: DataLoader[Any], ways: Sequence[RewrittenBatchMaker], batches: _Batches, turns: int
) -> list[Savings]:
    """Return the savings of each rewrite. Raise _FailedError if one makes no batch, and as `measure_savings` does."""

    def finishing() -> list[float]:
        return [_by(way, partial(way.finishing_seconds, batches[0], turns)) for way in ways]

    with one_torch_thread():
        plainly = finishing()
        with malloc_reuse(True):
            again = finishing()
        plain = Plain(loader)
        reused = partial(_made, plain.make, {way: way.make for way in ways}, batches)
        fresh = partial(_made, plain.make_shared, {way: way.make_shared for way in ways}, batches)
        lefts = _lefts(fresh if has_room_to_share(plain.make(batches[0])) else reused, reused, turns)
    alone = partial(_made, plain.make, {way: way.make_and_finish for way in ways}, batches)
    lefts = [replace(left, alone=its) for left, its in zip(lefts, _lefts(alone, alone, turns), strict=True)]
    return list(map(Savings, lefts, plainly, again))


def _made(plainly: _Make, ways: Mapping[RewrittenBatchMaker, _Make], batches: _Batches) -> _Turn:
    """Return the CPU seconds of whole batches, plain and rewritten; the cost of fresh memory depends on the amount."""

    def seconds(make: _Make) -> float:
        return sum(thread_seconds(partial(make, indices)) for indices in batches)

    turn = [seconds(plainly)]
    for way, make in ways.items():
        rewritten = partial(_by, way, partial(seconds, make))
        # The previous batches leave their own code and data in the caches, and a core that slept while they waited.
        first = rewritten()
        again = min(_SOON_TIMES, int(_SOON_SECONDS / max(first, _LEAST_SECONDS)))
        turn.append(median([rewritten() for _ in range(again)] or [first]))
    return tuple(turn)


def _by(way: RewrittenBatchMaker, seconds: Callable[[], float]) -> float:
    try:
        return seconds()
    except Exception as error:
        raise _FailedError(way, error) from error


def _lefts(turn: Callable[[], _Turn], reused_turn: Callable[[], _Turn], turns: int) -> list[RemainingCpuShare]:
    """Return the remaining shares of each rewrite, in `turns` turns or more if they differ, and in reused memory."""
    fresh = _until_steady(turn, turns)
    with malloc_reuse(True):
        # In the first turn, some of the memory is still fresh.
        reused_turn()
        again = _until_steady(reused_turn, turns)
    # If only some turns got fresh memory, the difference comes from the memory, not from the rewrite.
    return [
        RemainingCpuShare(_share(plainly) if _are_steady(plainly) else _share(reusing), _share(reusing))
        for plainly, reusing in zip(_each(fresh), _each(again), strict=True)
    ]


def _each(turns: Sequence[_Turn]) -> list[list[_Turn]]:
    """Return the CPU seconds of each rewrite, paired with the plain ones of the same turn."""
    return [[(turn[0], turn[way]) for turn in turns] for way in range(1, len(turns[0]))]


def _rewritten(loader: DataLoader[Any], fetch: Fetch, indices: Sequence[Any]) -> RewrittenBatchMaker | Exception:
    try:
        return RewrittenBatchMaker(loader, fetch, indices)
    except Exception as error:
        return error


def _until_steady(turn: Callable[[], _Turn], at_least: int) -> list[_Turn]:
    """Run `at_least` turns, and more if some got fresh memory and others didn't, as long as that is quick."""
    begin, turns = time.perf_counter(), [turn() for _ in range(at_least)]
    while not _are_steady(turns) and len(turns) < _TURNS_AT_MOST and time.perf_counter() - begin < _STEADY_SECONDS:
        turns.append(turn())
    return turns


def _are_steady(turns: Sequence[_Turn]) -> bool:
    """Return whether all turns took about as long, except the slowest one, which may have been disturbed."""
    for seconds in zip(*turns, strict=True):
        quickest, *others = sorted(seconds)
        if any(other > _STEADY * quickest for other in others[:-1]):
            return False
    return True


def _share(turns: Sequence[_Turn]) -> float:
    """Return the median rewritten seconds relative to the plain ones."""
    plain, rewritten = (median(seconds) for seconds in zip(*turns, strict=True))
    return float(rewritten / max(plain, _LEAST_SECONDS))
