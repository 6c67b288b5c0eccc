"""What is known of a script's loaders while it runs, and which of them feeds the training."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from plumb.lengths import length_of
from plumb.profile.sample import samples_in
from plumb.site import Site


class TrainingSignals:
    """Counts backward passes and optimizer steps: what tells a training loop from any other."""

    def __init__(self) -> None:
        import torch.autograd
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.count = 0
        backward = torch.autograd.backward

        def counted_backward(*args: Any, **kwargs: Any) -> None:
            self.count += 1
            return backward(*args, **kwargs)

        def stepped(*_: Any) -> None:
            self.count += 1

        torch.autograd.backward = counted_backward
        register_optimizer_step_post_hook(stepped)


@dataclass
class KnownLoader:
    """A loader of the script's, from its construction on.

    `batch_size` is the one that the script gave. `latest` keeps the loader that was iterated last alive.
    `is_library_s` says that a library has built its own from the script's parts.
    """

    name: str
    site: Site
    loader: weakref.ref[DataLoader[Any]]
    batch_size: int | None
    is_library_s: bool = False
    samples_per_batch: float | None = None
    batches_seen: int = 0
    epochs_begun: int = 0
    iterating_seconds: float = 0.0
    latest: DataLoader[Any] | None = None

    def note_batch(self, batch: Any, seconds: float) -> None:
        """Learns from a batch that passes by, `seconds` after the one before, how many samples one holds."""
        self.batches_seen += 1
        self.iterating_seconds += seconds
        if self.samples_per_batch is None:
            self.samples_per_batch = float(self.batch_size or samples_in(batch))


class Watched:
    """The iterator that a script's loop gets: the loader's own, with the session listening at every batch."""

    def __init__(
        self,
        known: KnownLoader,
        batches: Iterator[Any],
        start: Callable[[], Iterator[Any]],
        plain_loop: bool,
        ask: Callable[[Watched], Any],
    ) -> None:
        self.known = known
        self.batches = batches
        self.start = start
        self.plain_loop = plain_loop
        self.batches_given = 0
        self.is_fresh = True
        self.signals_before: int | None = None
        self.handed_over_at: float | None = None
        self._ask = ask

    def __iter__(self) -> Watched:
        return self

    def __next__(self) -> Any:
        return self._ask(self)

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        # Scripts reach into torch's iterator, to end its workers for example.
        return getattr(self.batches, name)


class Registry:
    """All loaders of the script. A loader rebuilt at the same place over the same data is the same loader."""

    def __init__(self) -> None:
        self._known: list[tuple[KnownLoader, weakref.ref[Any] | None]] = []
        self._by_loader: weakref.WeakKeyDictionary[DataLoader[Any], KnownLoader] = weakref.WeakKeyDictionary()

    def add(self, loader: DataLoader[Any], site: Site) -> tuple[KnownLoader, bool]:
        """The entry for a loader just made, and whether it is a new one."""
        dataset = _weak(loader.dataset)
        for known, its_dataset in self._known:
            if _is_same(known, its_dataset() if its_dataset else None, loader, site):
                known.loader = weakref.ref(loader)
                known.is_library_s = site.by_library
                self._by_loader[loader] = known
                return known, False
        name = self._unique(site.name)
        known = KnownLoader(name, site, weakref.ref(loader), loader.batch_size)
        self._known.append((known, dataset))
        self._by_loader[loader] = known
        return known, True

    def of(self, loader: DataLoader[Any]) -> KnownLoader | None:
        """The entry of a loader; None for one made before plumb listened."""
        return self._by_loader.get(loader)

    def all(self) -> list[KnownLoader]:
        """Every loader that was found, in the order of construction."""
        return [known for known, _ in self._known]

    def _unique(self, name: str) -> str:
        taken = {known.name for known, _ in self._known}
        if name not in taken:
            return name
        return next(f"{name}_{n}" for n in range(2, len(taken) + 3) if f"{name}_{n}" not in taken)


def _is_same(known: KnownLoader, its_dataset: Any, loader: DataLoader[Any], site: Site) -> bool:
    same_data = its_dataset is loader.dataset
    if site == known.site:
        was_used = known.batches_seen > 0 and its_dataset is not None
        rebuilt = (
            was_used
            and type(its_dataset) is type(loader.dataset)
            and length_of(its_dataset) == length_of(loader.dataset)
        )
        return same_data or rebuilt or known.loader() is None
    # Accelerate and others build a second loader from the first's parts, and iterate only that.
    return site.by_library and same_data and not known.is_library_s and known.batches_seen == 0


def _weak(target: Any) -> weakref.ref[Any] | None:
    try:
        return weakref.ref(target)
    except TypeError:
        return None
