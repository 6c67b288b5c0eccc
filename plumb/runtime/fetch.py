"""Reader of the samples of one batch: stored values instead of computed ones, and several samples at once.

`FetchingDataset` replaces the dataset inside a loader's iterator: torch requests a whole batch at a time from a dataset
with `__getitems__`. Order, values and the user's exceptions are those of the dataset itself. Threads are used only
where no random number is drawn, so the draws have the order of the plain pipeline.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from plumb.core.config import Cut, Deferral
from plumb.host.threads import ReadingThreads, one_torch_thread
from plumb.instrument.dataset_generators import DrawWatch, Generators, generators_of_modules
from plumb.instrument.dataset_objects import DatasetObjects
from plumb.instrument.known_objects import KnownObjects
from plumb.instrument.opened_files import OpenedFile, opened_files
from plumb.instrument.quick_look import QuickLook, quick_look_at
from plumb.instrument.saved_state import METHODS
from plumb.runtime.deferred.placeholder import VariesError
from plumb.runtime.deferred.skipped_operators import CallDeferrer, DeferredSamples
from plumb.runtime.drawing_samples import DrawCounter, DrawsError
from plumb.runtime.marked_batches import CheckedIndices, CheckedSamples, ReadRecord
from plumb.runtime.plain_batches import PlainBatches, plain_samples
from plumb.runtime.replay.replay import NO_ANSWERS, Replay, ReplayError
from plumb.runtime.replay.sample_code import code_of_samples, code_on
from plumb.runtime.store.codec import EncodeError, encode
from plumb.runtime.store.store import MISSING, Record, Store, StoreSpec, key_of
from plumb.runtime.table_batches import whole_batch

Made = tuple[Any, Record | None]
# Batches for which all threads' work is checked before it is used.
_LOOKED_AT_FIRST, _LOOKED_AT_EVERY = 3, 64


@dataclass(frozen=True)
class Fetch:
    """Specification of how samples are read: `threads` make several at once, up to `cut`, or whole ones without it.

    `spec` is the store of the cut's values, None for none; nothing is added to a store that `is_frozen`. `is_planned`:
    the ways come from a plan, and may lead elsewhere in the present code. With `whole_batches`, rows that lie in
    tensors are read at once, and nothing else is changed.
    """

    threads: int = 1
    cut: Cut | None = None
    deferral: Deferral | None = None
    spec: StoreSpec | None = None
    is_frozen: bool = False
    is_planned: bool = False
    whole_batches: bool = False

    @property
    def rewrites(self) -> bool:
        """True if samples are not simply read one after the other by the dataset itself."""
        return self.threads > 1 or self.spec is not None or self.deferral is not None or self.whole_batches

    def in_words(self, has_hits: bool) -> tuple[str, ...]:
        """Return the rewrites of a batch in words; `has_hits`: some values came from the store."""
        until = f" up to {self.cut.after}" if self.cut else ""
        parts = [f"the store of values after {self.cut.after}"] if self.cut and self.spec and has_hits else []
        parts += [f"{self.threads} threads that make samples{until}"] if self.threads > 1 else []
        if self.deferral:
            parts.append(f"{' and '.join(step.operator for step in self.deferral.steps)} on batches")
        if not parts and self.spec and self.cut:
            parts.append(f"values after {self.cut.after}, which are stored")
        parts += ["rows that are read by whole batches"] if self.whole_batches else []
        return tuple(parts)


class FetchingDataset:
    """Map-style dataset that reads another one's samples; picklable if that one is.

    If samples are read one by one, `after_first_sample` is called when the first one of a batch is made.
    """

    def __init__(self, dataset: Any, fetch: Fetch, plainly: PlainBatches | None = None) -> None:
        self.dataset = dataset
        self._fetch = fetch
        self._plainly = plainly
        self._reader: tuple[int, _SampleReader] | None = None
        self.after_first_sample: Callable[[], None] | None = None
        # Forked workers then need not search for them again.
        generators_of_modules()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, CheckedIndices):
            return self._checked(index, self._sample)
        return self._sample(index)

    def __getitems__(self, indices: Any) -> Any:
        """Return the samples at `indices`, in order, or their values before the deferred operators.

        Returns `CheckedSamples` for marked indices.
        """
        return self._checked(indices, self._samples) if isinstance(indices, CheckedIndices) else self._samples(indices)

    def read_plainly(self) -> None:
        """Read samples by the dataset itself from now on."""
        self._fetch, self._reader = Fetch(), None

    def _sample(self, index: Any) -> Any:
        if not self._fetch.rewrites:
            return self.dataset[index]
        samples = self._here.samples([index])
        assert isinstance(samples, list)
        return samples[0]

    def _samples(self, indices: Sequence[Any]) -> Any:
        if self._fetch.whole_batches:
            whole = whole_batch(self.dataset, indices)
            return plain_samples(self.dataset, indices) if whole is None else whole
        if self._fetch.rewrites:
            return self._here.samples(list(indices))
        if self.after_first_sample is None or getattr(self.dataset, "__getitems__", None) or not indices:
            return plain_samples(self.dataset, indices)
        first = self.dataset[indices[0]]
        self.after_first_sample()
        return [first, *(self.dataset[index] for index in indices[1:])]

    def _checked(self, marked: CheckedIndices, read: Callable[[Any], Any]) -> CheckedSamples:
        """Return the result of `read` with a note: the generators' states, and a plain version if that is requested."""
        reader, fetch, plain = self._here, self._fetch, None
        reader.generators.look_again()
        states = reader.generators.snapshot()
        begun = time.perf_counter()
        if marked.is_made_plainly_here and self._plainly is not None:
            plain = self._plainly.in_child(marked.indices, states, marked.seconds)
        seconds = time.perf_counter() - begun
        hits = reader.hits
        samples = read(marked.indices)
        note = ReadRecord(
            states,
            plain,
            seconds,
            threads=1 if fetch.threads > 1 else torch.get_num_threads(),
            rewrites=fetch.in_words(reader.hits > hits),
            store=fetch.spec,
        )
        return CheckedSamples(samples, note, reader.generators)

    def __getattr__(self, name: str) -> Any:
        # A loader that saves its dataset's state looks up these names; a dataset without a state must not have them
        # here.
        if name in METHODS:
            return getattr(self.__dict__["dataset"], name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def rewritten(self, indices: Sequence[Any]) -> list[Any]:
        """Return the rewritten samples. Raise ReplayError or VariesError if a rewrite doesn't fit.

        Nothing is deferred, and nothing is made plainly instead, because this is for trials of a rewrite.
        """
        return self._here.overlapped(list(indices))

    @property
    def _here(self) -> _SampleReader:
        """Reader of this process, because stores and threads of a parent can't be used after a fork."""
        if self._reader is None or self._reader[0] != os.getpid():
            self._reader = os.getpid(), _SampleReader(self.dataset, self._fetch)
        return self._reader[1]


class _SampleReader:
    """Reader of the samples of batches in one process."""

    def __init__(self, dataset: Any, fetch: Fetch) -> None:
        self._dataset = dataset
        self._fetch = fetch
        self._deferring = CallDeferrer(fetch.deferral) if fetch.deferral else None
        self._replay = Replay(dataset, fetch.cut, self._deferring.answers if self._deferring else NO_ANSWERS)
        self._store = Store(fetch.spec) if fetch.spec else None
        self._pool = ReadingThreads(fetch.threads) if fetch.threads > 1 else None
        self.generators = Generators(dataset)
        self._drawing = DrawCounter()
        self._is_plain = False
        self._is_checked = not fetch.is_planned
        self._batches = 0
        self.hits = 0
        self._watch: DrawWatch | None = None
        self._known: KnownObjects | None = None
        self._quick: QuickLook | None = None
        self._quick_until = 0
        self._first_files: tuple[OpenedFile, ...] | None = None

    def samples(self, indices: list[Any]) -> list[Any] | DeferredSamples:
        """Return the samples of one batch. If a rewrite doesn't fit, make this and all later ones plainly."""
        if not self._is_plain:
            kept = self.generators.snapshot()
            try:
                self._check_the_ways(indices)
                samples = self._read(indices)
                return self._deferring.settled(samples) if self._deferring else samples
            except (ReplayError, VariesError) as error:
                self._is_plain = True
                self.generators.put_back(kept)
                if not isinstance(error, DrawsError) or self._is_first_to_end(error):
                    name = type(self._dataset).__name__
                    text = f"plumb: {name}: {error}; its samples are made as the script has it from here"
                    print(text, file=sys.stderr)
        plain: list[Any] = plain_samples(self._dataset, indices)
        return plain

    def _check_the_ways(self, indices: list[Any]) -> None:
        """Raise ReplayError if the code on the ways differs from that when they were found.

        That needs one more sample, in the process that reads all others, because its handles must not be opened
        elsewhere.
        """
        if self._is_checked or not indices:
            return
        self._is_checked = True
        cut, deferral = self._fetch.cut, self._fetch.deferral
        with DatasetObjects(self._dataset).kept():
            if cut is not None and self._code_before(cut, indices[0]) != cut.code:
                raise ReplayError(f"the code before {cut.after} has changed since the plan was made. Tune again")
            ways = tuple(step.way for step in deferral.steps) if deferral else ()
            if deferral and code_on(ways, self._dataset, indices[0]) != deferral.code:
                raise ReplayError(
                    f"the code of {deferral.steps[0].operator} has changed since the plan was made. Tune again"
                )

    def _code_before(self, cut: Cut, index: Any) -> str:
        return code_on((cut.way, *cut.feeds), self._dataset, index) if cut.way else code_of_samples(self._dataset)

    def overlapped(self, indices: list[Any]) -> list[Any]:
        """Return the samples of one batch without waiting for all threads first."""
        self._batches = self._batches or _LOOKED_AT_FIRST
        return self._read(indices)

    def _read(self, indices: list[Any]) -> list[Any]:
        # Torch's own threads wait actively for their next task, on the cores that the reading threads need.
        with one_torch_thread() if self._pool else nullcontext():
            return self._cut(indices) if self._fetch.cut else self._whole(indices)

    def _whole(self, indices: list[Any]) -> list[Any]:
        if self._pool is None:
            return [self._replay.sample(index) for index in indices]
        states = self.generators.states()
        with self._submitted(self._replay.sample, indices) as futures:
            wait(futures)
            self._refuse_draws(states)
            return [future.result() for future in futures]

    def _cut(self, indices: list[Any]) -> list[Any]:
        """Return the samples in order, each from the cut's value: stored, made ahead by a thread, or made now."""
        values = self._store.get_many([key_of(index) for index in indices]) if self._store else [MISSING] * len(indices)
        missing = [index for index, value in zip(indices, values, strict=True) if value is MISSING]
        states = self.generators.states() if missing and self._pool else None
        self._watch = None
        samples: list[Any] = []
        records: list[Record] = []
        with self._submitted(self._value_and_record, missing) as futures:
            if futures and self._waits_for_all:
                # Code behind the cut may draw random numbers, which would hide the draws of a thread.
                wait(futures)
                self._refuse_draws(states)
            ahead = iter(futures)
            for index, value in zip(indices, values, strict=True):
                if value is not MISSING:
                    sample, record = self._replay.sample_from(index, value), None
                elif self._pool is None:
                    sample, record = self._sample_and_record(index)
                else:
                    made, record = self._taken(next(ahead), states)
                    sample = self._replay.sample_from(index, made)
                # From here on, code behind the cut may have drawn.
                states = None
                samples.append(sample)
                records += [record] if record else []
        self._batches += bool(missing)
        self.hits += len(indices) - len(missing)
        self._drawing.note(len(indices) - len(missing), 0)
        self._put(records)
        return samples

    def _taken(self, future: Future[Any], states: tuple[Any, ...] | None) -> Made:
        """Return a thread's result. Draws during the wait, or since the `states`, are attributed to threads."""
        if states is None and not future.done():
            states = self.generators.states()
        wait([future])
        self._refuse_draws(states)
        made: Made = future.result()
        return made

    def _put(self, records: list[Record]) -> None:
        """Store new values, unless a generator is found only now, from which any of the samples may have drawn."""
        if self._store is None or not records:
            return
        # In batches 1, 2, 4, 8 and so on, because the search takes as long as some samples.
        if not self._batches & (self._batches - 1) and self.generators.look_again():
            return
        self._store.put_many(records)

    @property
    def _waits_for_all(self) -> bool:
        """True if all threads' work is awaited and checked first: if it is stored, and from time to time."""
        return self._stores or self._batches < _LOOKED_AT_FIRST or self._batches % _LOOKED_AT_EVERY == 0

    @property
    def _stores(self) -> bool:
        return self._store is not None and not (self._store.is_full or self._store.is_off or self._fetch.is_frozen)

    def _refuse_draws(self, states: tuple[Any, ...] | None) -> None:
        """Raise DrawsError if random numbers were drawn since the generators had these states."""
        if states is not None and states != self.generators.states():
            raise DrawsError("random numbers are drawn in threads, and so in another order")

    def _is_first_to_end(self, error: DrawsError) -> bool:
        """End the store, and return whether no other process did so, and reported it, before."""
        return self._store is None or self._store.end(str(error))

    def _value_and_record(self, index: Any) -> Made:
        """Return the cut's value, and its record for the store, None if making it changed something."""
        before = self._sights()
        with opened_files() as files:
            value = self._replay.prefix(index)
        # Encoded before the value is used, because the user's code may change it in place.
        return value, self._record(index, value, files) if before == self._sights() else None

    def _sample_and_record(self, index: Any) -> Made:
        """Make a sample plainly; return it and its record for the store.

        The record is None if random numbers were drawn before the cut, or if something was changed, because that must
        happen each time that the script requests the sample.
        """
        if not self._stores:
            return self._replay.sample_keeping(index, lambda _: None), None
        records: list[Record | None] = []
        watch = self._watch = self._watch or DrawWatch(self.generators)
        if self._fetch.cut is None or self._fetch.cut.way:
            # Resets the watch after the code behind the last sample's cut.
            watch.has_moved()

        def keep(value: Any) -> None:
            draws = watch.has_moved()
            self._drawing.note(1, draws)
            is_pure = not draws and before == self._sights()
            records.append(self._record(index, value, files) if is_pure else None)

        before = self._sights()
        with opened_files() as files:
            sample = self._replay.sample_keeping(index, keep)
        self._drawing.check(self._after)
        return sample, records[0]

    @property
    def _after(self) -> str:
        return self._fetch.cut.after if self._fetch.cut else "its samples"

    def _sights(self) -> list[Any] | None:
        """Return a quick summary of what samples might change, while they are stored; None if they are not."""
        if not self._stores:
            return None
        if self._quick is None or self._batches > self._quick_until:
            self._quick, self._quick_until = quick_look_at((self._dataset,)), 2 * self._batches
        return self._quick.sights()

    def _record(self, index: Any, value: Any, files: Iterable[OpenedFile]) -> Record | None:
        key = key_of(index)
        opened = tuple(files)
        if self._first_files is None:
            # Includes files that the first sample has read for all, such as one with labels that is kept in memory.
            self._first_files = opened
        if not self._stores or key is None:
            return None
        self._known = self._known or KnownObjects((self._dataset,))
        if self._known.found_in(value):
            # Code that compares the object by identity would not recognize a copy.
            return None
        try:
            return key, encode(value), tuple(dict.fromkeys((*opened, *self._first_files)))
        except EncodeError:
            return None

    @contextmanager
    def _submitted(self, work: Callable[[Any], Any], indices: list[Any]) -> Iterator[list[Future[Any]]]:
        """Submit the work for all indices to the threads, if any; cancel at the end what was not begun."""
        futures = [self._pool.submit(work, index) for index in indices] if self._pool else []
        try:
            yield futures
        finally:
            for future in futures:
                future.cancel()
