"""A loader of the script's, with what has been seen of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from plumb.core.construction import Construction
from plumb.core.identity import Facts, Identity
from plumb.instrument.call_site import Site
from plumb.runtime.forwarding_iterator import ForwardingIterator
from plumb.tuning.measure.sample_cost import samples_in


@dataclass
class KnownLoader:
    """A loader of the script, from its construction on.

    `batch_size` is the script's. `latest` keeps the loader that was iterated last alive. `is_library_s` says that a
    library has built its own loader from the script's parts; `read_beside` names a loader in whose training loop this
    one was read. `identity` has the facts about the dataset once the loader was iterated; `checked` is the loader that
    was examined last, and `facts` are its own. `iterators` is the class of the loader's iterators,
    `skips` are those of the errors that the script was seen to go on after. `construction` says how the script made the
    loader.
    """

    name: str
    site: Site
    loader: weakref.ref[DataLoader[Any]]
    batch_size: int | None
    is_library_s: bool = False
    read_beside: str = ""
    samples_per_batch: float | None = None
    batches_seen: int = 0
    epochs_begun: int = 0
    iterating_seconds: float = 0.0
    latest: DataLoader[Any] | None = None
    iterators: type | None = None
    identity: Identity | None = None
    dataset: weakref.ref[Any] | None = None
    checked: weakref.ref[DataLoader[Any]] | None = None
    facts: Facts | None = None
    skips: tuple[type[Exception], ...] = ()
    construction: Construction | None = None

    @property
    def is_used(self) -> bool:
        """True if the script has requested batches of the loader."""
        return self.epochs_begun > 0 or self.batches_seen > 0

    def facts_of(self, loader: DataLoader[Any]) -> Facts | None:
        """Return the facts about the loader that was examined last; None for any other."""
        return self.facts if refers_to(self.checked, loader) else None

    def note_batch(self, batch: Any, seconds: float) -> None:
        """Record a batch, `seconds` after the previous one, and count its samples if that is still unknown."""
        self.batches_seen += 1
        self.iterating_seconds += seconds
        if self.samples_per_batch is None:
            self.samples_per_batch = float(self.batch_size or samples_in(batch))


class WatchedIterator(ForwardingIterator):
    """Iterator for a script's loop: the loader's own, with a call to the session at every batch."""

    def __init__(
        self,
        known: KnownLoader,
        batches: Iterator[Any],
        start: Callable[[], Iterator[Any]],
        plain_loop: bool,
        ask: Callable[[WatchedIterator], Any],
    ) -> None:
        known.iterators = known.iterators or batches.__class__
        super().__init__(batches, known.iterators)
        self.known = known
        self.batches = batches
        self.start = start
        self.plain_loop = plain_loop
        self.batches_given = 0
        self.is_fresh = True
        self.has_ended = False
        self.signals_before: int | None = None
        self.handed_over_at: float | None = None
        self._ask = ask

    def __next__(self) -> Any:
        return self._ask(self)


def refers_to(reference: weakref.ref[Any] | None, target: Any) -> bool:
    return reference is not None and reference() is target
