"""Partly filled stores for trials, and index batches that hit them as often as later epochs will.

Filling a store with a whole dataset would take an epoch. So a few samples fill it here, and a trial draws its hits from
these and its misses from the loader's own order, in the share that the real store will have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from plumb.core.config import CacheChoice, Config, Rewrites
from plumb.instrument.rng_state import restored_generators
from plumb.runtime.fetch import Fetch, FetchingDataset
from plumb.runtime.iterator_setup import cut_of
from plumb.runtime.store.dataset_store import DatasetStore
from plumb.tuning.measure.throughput import IndexStream

_SAMPLES_AT_LEAST, _SAMPLES_AT_MOST = 8, 2048
_BYTES_AT_MOST = 2**30
_FILLING_THREADS = 16


@dataclass(frozen=True)
class WarmStore:
    """Store with the values of the samples at `indices`."""

    stored: DatasetStore
    indices: tuple[Any, ...]


class HittingStream(IndexStream):
    """The script's index batches, with a share of their samples replaced by stored ones."""

    def __init__(self, stream: IndexStream, filled: WarmStore, hit_ratio: float, seed: int) -> None:
        self.is_batches = True
        self._stream = stream
        self._filled = filled
        self._hit_ratio = hit_ratio
        self._random = random.Random(seed)

    def __next__(self) -> list[Any]:
        fresh = list(next(self._stream))
        hits = self._random.choices(self._filled.indices, k=len(fresh))
        return [hit if self._random.random() < self._hit_ratio else miss for hit, miss in zip(hits, fresh, strict=True)]


class FilledStores:
    """Partly filled stores, one per cut and tier, each filled for about `seconds` when it is first requested.

    Raises StoreError, and the dataset's errors except those in `skips`.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        stream: IndexStream,
        rewrites: Rewrites,
        seconds: float,
        skips: tuple[type[Exception], ...] = (),
    ) -> None:
        self._loader = loader
        self._skips = skips
        self._stream = stream
        self._rewrites = rewrites
        self._seconds = seconds
        self._filled: dict[tuple[str, str], WarmStore] = {}

    def of(self, config: Config) -> WarmStore:
        """Return the store that `config` reads; fill it first if it is new."""
        choice = config.cache
        assert choice is not None
        key = choice.after, choice.tier
        if key not in self._filled:
            self._filled[key] = self._fill(config, choice)
        return self._filled[key]

    def _fill(self, config: Config, choice: CacheChoice) -> WarmStore:
        cut = cut_of(config, self._rewrites)
        assert cut is not None
        small = dataclasses.replace(choice, bytes=min(choice.bytes, _BYTES_AT_MOST))
        stored = DatasetStore(self._loader.dataset, cut, small, apart="-trial")
        # No more of them than the configuration itself reads at once, which is what its source holds.
        at_once = min(_FILLING_THREADS, max(1, config.num_workers) * config.fetch_threads)
        threads = at_once if {cut.after, ""} & {*self._rewrites.threads_until} else 1
        fetching = FetchingDataset(self._loader.dataset, Fetch(threads, cut, spec=stored.spec))
        indices: list[Any] = []
        begun = time.perf_counter()
        with restored_generators():
            for group in self._groups(max(threads, _SAMPLES_AT_LEAST)):
                with contextlib.suppress(*self._skips):
                    fetching.__getitems__(group)
                    indices += group
                if len(indices) >= _SAMPLES_AT_MOST or time.perf_counter() - begun > self._seconds:
                    break
        return WarmStore(stored, tuple(indices))

    def _groups(self, size: int) -> Iterator[list[Any]]:
        while True:
            batch = list(next(self._stream))
            yield from (batch[start : start + size] for start in range(0, len(batch), size))
