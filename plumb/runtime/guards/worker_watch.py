"""Detection, in the worker that makes them, of batches that must not come from a worker.

A worker has a copy of the dataset. Only a few samples were tried before workers were started: a rare one may draw from
a generator of the dataset's own, change what the script or other samples read, or return an object that the loop knows
by its identity. Such a batch is not delivered: after the error, the script's own configuration makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import get_worker_info
from torch.utils.data._utils import fetch as torchs_fetch

from plumb.core.errors import PlumbError
from plumb.instrument.dataset_objects import DatasetObjects
from plumb.instrument.known_objects import KnownObjects
from plumb.instrument.rng_state import state_of
from plumb.runtime.fetch import Fetch, FetchingDataset
from plumb.runtime.guards.sample_writes import SampleWrites
from plumb.runtime.marked_batches import CheckedIndices
from plumb.runtime.plain_batches import PlainBatches

_PLUMBS = "plumb."


class NotForWorkersError(PlumbError):
    """A batch that workers which the script doesn't have must not make; the message is the reason, in one line."""

    @property
    def reason(self) -> str:
        """The reason alone, without the traceback that an error from a worker contains."""
        return str(self).rstrip().rsplit("\n", 1)[-1].rsplit(f"{type(self).__name__}: ", 1)[-1]


@dataclass(frozen=True)
class WorkerWatchInit:
    """`worker_init_fn` that calls the previous one, and then makes such batches fail.

    If the `users_has_workers`, changes in a worker's copy are lost in any case, but draws from the dataset's own
    generators still depend on the number of workers. Picklable if both functions are.
    """

    then: Callable[[int], None] | None
    collate_fn: Callable[[Any], Any] | None
    users_has_workers: bool

    def __call__(self, worker_id: int) -> None:
        if self.then is not None:
            self.then(worker_id)
        info = get_worker_info()
        roots = tuple(root for root in (info.dataset if info else None, self.collate_fn) if root is not None)
        if self.users_has_workers:
            generators = [each for root in roots for each in DatasetObjects(root).generators]
            if generators:
                _install(_DrawWatch(generators))
        else:
            _install(_WorkerWatch(roots, info.num_workers if info else 1))


def _install(watch: _DrawWatch | _WorkerWatch) -> None:
    """Replace torch's fetcher in this worker process by one whose batches are watched."""
    plain: Callable[[Any, Any], Any] = torchs_fetch._MapDatasetFetcher.fetch

    def fetch(fetcher: Any, indices: Any) -> Any:
        return watch.fetched(fetcher, indices, plain)

    torchs_fetch._MapDatasetFetcher.fetch = fetch  # type: ignore[method-assign]


class _DrawWatch:
    """Refusal of batches that draw from some generators."""

    def __init__(self, generators: list[Any]) -> None:
        self._generators = generators

    def fetched(self, fetcher: Any, indices: Any, fetch: Callable[[Any, Any], Any]) -> Any:
        before = [state_of(each) for each in self._generators]
        batch = fetch(fetcher, indices)
        if [state_of(each) for each in self._generators] != before:
            raise NotForWorkersError(
                "a sample drew from a random generator of the dataset's own, which each worker copies"
            )
        return batch


class _WorkerWatch:
    """Refusal of batches that draw from the dataset's generators, change the dataset, or contain its objects."""

    def __init__(self, roots: tuple[Any, ...], workers: int) -> None:
        self._workers = workers
        self._writes = SampleWrites(roots)
        self._known = KnownObjects(roots)
        self._draws = _DrawWatch([each for root in roots for each in DatasetObjects(root).generators])
        self._batch: Any = None
        self._is_first = True

    def fetched(self, fetcher: Any, indices: Any, fetch: Callable[[Any, Any], Any]) -> Any:
        plain_indices = indices.indices if isinstance(indices, CheckedIndices) else indices
        if self._is_first:
            self._is_first = False
            has_begun, sent = self._first(fetcher, indices, fetch)
            other, latest = (plain_indices[:1], plain_indices[1:]) if has_begun else (None, plain_indices)
            if not has_begun:
                self._writes.begin()
        else:
            sent, other, latest = self._draws.fetched(fetcher, indices, fetch), None, plain_indices
        place = self._writes.found(self._read, latest, other)
        if place:
            raise NotForWorkersError(f"a sample changed {place}, of which each worker has a copy{self._missed()}")
        batch, self._batch = self._batch, None
        place = self._known.found_in(batch)
        if place:
            raise NotForWorkersError(f"a batch holds {place}, of which workers send copies")
        return sent

    def _missed(self) -> str:
        """Return a phrase on how many earlier batches, including prefetched ones, may have done the same unseen."""
        count = self._writes.missed * self._workers
        return f"; up to {count} batches before may have done so, too" if count else ""

    def _first(self, fetcher: Any, indices: Any, fetch: Callable[[Any, Any], Any]) -> tuple[bool, Any]:
        """Fetch the first batch, and compare from its first sample on, whose changes may be setup."""
        dataset = fetcher.dataset
        fetching = dataset if isinstance(dataset, FetchingDataset) else FetchingDataset(dataset, Fetch())
        self._note_batches(fetcher, fetching.dataset)
        if not fetcher.auto_collation:
            return False, self._draws.fetched(fetcher, indices, fetch)
        begun: list[None] = []

        def begin() -> None:
            self._writes.begin()
            begun.append(None)

        fetcher.dataset = fetching
        fetching.after_first_sample = begin
        try:
            sent = self._draws.fetched(fetcher, indices, fetch)
            return bool(begun), sent
        finally:
            fetching.after_first_sample = None
            fetcher.dataset = dataset

    def _note_batches(self, fetcher: Any, dataset: Any) -> None:
        """Keep each batch as the user's own function returns it, before it is prepared for sending."""
        holder = fetcher
        while type(holder.collate_fn).__module__.startswith(_PLUMBS):
            holder = holder.collate_fn
        users: Callable[[Any], Any] = holder.collate_fn

        def noting(samples: Any) -> Any:
            self._batch = users(samples)
            return self._batch

        object.__setattr__(holder, "collate_fn", noting)
        self._read = PlainBatches(dataset, users, fetcher.auto_collation).batch
