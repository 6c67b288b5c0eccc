"""Guarded iterators of torch's own, or of a loader's own class.

If plumb's own iterator can't read an epoch, a wrong batch can't be read again by other workers: without workers it is
remade in its place, and with workers the next epoch is the script's own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from plumb.host.pinned_memory import pinned
from plumb.runtime.epoch.loader_run import LoaderRun
from plumb.runtime.fetch import FetchingDataset
from plumb.runtime.guards.guard import Finding, Verdict
from plumb.runtime.guards.state_guard import StateGuard
from plumb.runtime.plain_batches import PlainBatches

Start = Callable[[], Iterator[Any]]


def start_watched(run: LoaderRun, loader: DataLoader[Any], template: DataLoader[Any], start: Start) -> Iterator[Any]:
    """Start an epoch without workers, on the run's configuration until a guard finds a reason against it.

    Args:
        run: State shared by the loader's epochs.
        loader: The user's loader, with the script's own arguments.
        template: A loader with its parts, for the guards.
        start: Makes the iterator.
    """
    running = run.running
    if run.is_plain or running is None:
        return start()
    run.turn += 1
    if _ends_plan(run, template, run.guards.epoch_begins(template)):
        return start()
    run.reads_here = True
    batches = running.start(loader, start)
    watched = _Watched(run, template, weakref.ref(batches))
    vars(batches).update(_next_index=watched.next_index, _next_data=watched.next_data)
    return batches


def watch_changes(batches: Any, guard: StateGuard, loader: DataLoader[Any], found: Callable[[str], None]) -> None:
    """Call `found`, once, with the loop's change while the workers of torch's iterator read."""
    kind, known, said = type(batches), weakref.ref(batches), list[str]()
    plain: Callable[[Any], Any] = kind._next_data

    def next_data() -> Any:
        finding = None if said else guard.batch_wanted(loader)
        if finding is not None and finding.verdict is Verdict.PLAIN:
            said.append(finding.reason)
            found(finding.reason)
        return plain(known())

    vars(batches)["_next_data"] = next_data


class _Watched:
    """Hooks between an iterator without workers and its class: its indices and batches pass through the guards."""

    def __init__(self, run: LoaderRun, template: DataLoader[Any], batches: Callable[[], Any]) -> None:
        self._run = run
        self._template = template
        # The iterator refers to this object. A reference back would leave the iterator to the cycle collector.
        self._batches = batches
        self._number = -1
        self._indices: Any = None

    def next_index(self) -> Any:
        batches = self._batches()
        self._indices = type(batches)._next_index(batches)
        self._number += 1
        return self._indices if self._run.is_plain else self._run.guards.indices(self._number, self._indices)

    def next_data(self) -> Any:
        batches, run = self._batches(), self._run
        template = self._template
        if run.is_plain or _ends_plan(run, template, run.guards.batch_wanted(template)):
            self._read_plainly()
            return type(batches)._next_data(batches)
        read = type(batches)._next_data(batches)
        batch, finding = run.guards.batch_read(self._number, self._indices, read)
        if not _ends_plan(run, template, finding):
            return batch
        plain = PlainBatches(template.dataset, template.collate_fn, template._auto_collation).batch(self._indices)
        return pinned(plain) if template.pin_memory else plain

    def _read_plainly(self) -> None:
        fetching = self._batches()._dataset_fetcher.dataset
        if isinstance(fetching, FetchingDataset):
            fetching.read_plainly()


def _ends_plan(run: LoaderRun, template: DataLoader[Any], finding: Finding | None) -> bool:
    """Act on a finding; return whether everything is read plainly from now on."""
    if finding is None or finding.verdict is Verdict.GO_ON:
        return False
    if run.running is not None:
        run.running.note_change(template.dataset)
    if finding.verdict is Verdict.PLAIN:
        run.stay_plain(finding.reason)
    return finding.verdict is Verdict.PLAIN
