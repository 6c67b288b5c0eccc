"""Registry of a script's loaders while it runs, to find the one that feeds the training."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

from torch.utils.data import DataLoader

from plumb.core.identity import Identity
from plumb.instrument.call_site import Site
from plumb.instrument.identity_difference import without_numbers
from plumb.instrument.identity_of_loader import facts_of_loader, identity_of, place_of
from plumb.tuning.measure.known_loader import KnownLoader, refers_to


class Registry:
    """All loaders of the script. A loader rebuilt at the same place over the same data is the same loader.

    Loaders and datasets are compared by identity, and never with `==`: a user's class may define equality, have no
    hash, or have a truth value that calls `__len__`.
    """

    def __init__(self) -> None:
        self._known: list[KnownLoader] = []
        self._by_loader: dict[int, KnownLoader] = {}

    def add(self, loader: DataLoader[Any], site: Site) -> tuple[KnownLoader, bool]:
        """Return the entry for a new loader, and whether the entry is new."""
        found = identity_of(loader, place_of(site), 0)
        for known in self._known:
            if _is_rebuilt(known, loader, found, site) or _is_from_its_parts(known, loader, site):
                known.loader = weakref.ref(loader)
                known.dataset = _weak(loader.dataset)
                known.is_library_s = site != known.site
                self._note(loader, known)
                return known, False
        return self._new(loader, site, found), True

    def of(self, loader: DataLoader[Any]) -> KnownLoader | None:
        """Return the entry of a loader; None for one made before plumb was installed."""
        return self._by_loader.get(id(loader))

    def iterated(self, loader: DataLoader[Any]) -> KnownLoader | None:
        """Return the entry of a loader that is about to be iterated, with the present facts about its dataset.

        A loader that seemed to be an earlier one, but whose dataset has other code or flags, gets an entry of its own.
        """
        known = self.of(loader)
        if known is None or known.identity is None or refers_to(known.checked, loader):
            return known
        facts, first = facts_of_loader(loader), known.identity.facts
        if first is not None and facts is not None and without_numbers(first) != without_numbers(facts):
            known = self._new(loader, known.site, known.identity)
        known.checked, known.facts = weakref.ref(loader), facts
        assert known.identity is not None
        if known.identity.facts is None:
            known.identity = dataclasses.replace(known.identity, facts=facts)
        return known

    def all(self) -> list[KnownLoader]:
        """Return all loaders, in the order of construction."""
        return list(self._known)

    def _new(self, loader: DataLoader[Any], site: Site, found: Identity) -> KnownLoader:
        order = 1 + sum(known.identity is not None and known.identity.place == found.place for known in self._known)
        known = KnownLoader(
            self._unique(site.name),
            site,
            weakref.ref(loader),
            loader.batch_size,
            identity=dataclasses.replace(found, order=order, facts=None),
            dataset=_weak(loader.dataset),
        )
        self._known.append(known)
        self._note(loader, known)
        return known

    def _note(self, loader: DataLoader[Any], known: KnownLoader) -> None:
        if id(loader) not in self._by_loader:
            weakref.finalize(loader, self._by_loader.pop, id(loader), None).atexit = False
        self._by_loader[id(loader)] = known

    def _unique(self, name: str) -> str:
        taken = {known.name for known in self._known}
        if name not in taken:
            return name
        return next(f"{name}_{n}" for n in range(2, len(taken) + 3) if f"{name}_{n}" not in taken)


def _is_rebuilt(known: KnownLoader, loader: DataLoader[Any], found: Identity, site: Site) -> bool:
    """Return whether the script makes a loader again.

    That is so over the same dataset, or in place of a loader that is used or gone, as far as visible now: the dataset
    may not be complete yet.
    """
    first = known.identity
    if site != known.site or first is None:
        return False
    if (found.dataset, found.length, found.arguments) != (first.dataset, first.length, first.arguments):
        return False
    return refers_to(known.dataset, loader.dataset) or known.is_used or known.loader() is None


def _is_from_its_parts(known: KnownLoader, loader: DataLoader[Any], site: Site) -> bool:
    """Return whether a library built a loader from another's parts, as accelerate does, and iterates its own."""
    first = known.loader()
    if not site.by_library or site == known.site or known.is_library_s or first is None:
        return False
    return not refers_to(known.checked, first) and refers_to(known.dataset, loader.dataset)


def _weak(target: Any) -> weakref.ref[Any] | None:
    try:
        return weakref.ref(target)
    except TypeError:
        return None
