"""Application of a plan's configurations to the script's own loaders when they are constructed.

An entry of the plan belongs to one loader, which is identified in two steps: where the loader is made, its place, its
arguments and its dataset's class and length must be the entry's; where it is first iterated, when the dataset is
complete, so must the dataset's code and flags. Otherwise the loader runs as the script has it.
"""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from plumb.core.config import Config
from plumb.core.log import logger
from plumb.core.plan import LoaderResult, Plan
from plumb.instrument.call_site import Site
from plumb.instrument.identity_difference import difference_of_loaders
from plumb.runtime.loader_attributes import plans_attributes, set_attributes, users_attributes

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from plumb.runtime.guards.plan_fit import PlanFit
    from plumb.runtime.planned_loader import PlannedLoader
    from plumb.runtime.run_clock import RunClock
    from plumb.script.loader_registry import Registry
    from plumb.tuning.measure.known_loader import KnownLoader

_log = logger(__name__)

# Attribute of a changed loader: the number of its entry in the plan, and the script's own arguments. Copies have it
# too.
_MARK = "_plumb_loader"
_AS_IT_IS = "it runs as the script has it. Tune again to renew the plan."


class PlanHandler:
    """`interception.Handler` that changes the arguments of the loaders in the plan, and of no others."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._said: set[str] = set()
        self._registry: Registry | None = None
        # Keyed by identity, because a user's subclass may define equality or have no hash.
        self._changed: dict[int, _PlannedByHandler] = {}
        # By the number of an entry: its loader; and the entries that several loaders fit.
        self._owners: dict[int, KnownLoader] = {}
        self._contested: set[int] = set()
        self._fits: dict[int, PlanFit] = {}
        self._clocks: dict[int, RunClock] = {}

    def constructing(self, site: Site, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the script's arguments unchanged, so that torch checks them."""
        return arguments

    def constructed(self, loader: DataLoader[Any], site: Site) -> None:
        """Give a loader the plan's arguments if the plan is for this very loader."""
        from plumb.script.loader_registry import Registry

        self._registry = self._registry or Registry()
        known, _ = self._registry.add(loader, site)
        if known.is_library_s:
            self._hand_on(loader, known)
            return
        number = self._entry_for(known, loader, site)
        if number is not None:
            users = users_attributes(loader, self._plan.loaders[number].config)
            vars(loader)[_MARK] = number, users
            self._put_in(loader, number)

    def iterating(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], plain_loop: bool) -> Iterator[Any]:
        """Start an epoch, on the plan if the loader was changed by it and the plan fits its dataset."""
        asked = time.perf_counter()
        known = self._registry.iterated(loader) if self._registry is not None else None
        if known is not None:
            known.epochs_begun += 1
        changed = self._changed.get(id(loader)) or self._noted(loader)
        if changed is not None and known is not None and self._owners.get(changed.number) not in (None, known):
            changed = self._moved(changed, loader, known)
        if changed is None or changed.is_plain:
            return start()
        problem = self._problem(changed, loader, known)
        _log.debug("epoch of %s: %s", self._name(changed.number), problem or self._plan.loaders[changed.number].config)
        if problem:
            self._say(f"{self._name(changed.number)}: {problem}; {_AS_IT_IS}")
            changed.become_plain(loader)
            return start()
        return start() if changed.planned is None else changed.planned.start(loader, start, self._say, asked)

    def read_by_dataset(self, loader: DataLoader[Any]) -> None:
        """Restore a loader's own arguments, because workers of its own would make it another dataset."""
        changed = self._changed.get(id(loader)) or self._noted(loader)
        if changed is not None and not changed.is_plain:
            changed.become_plain(loader)

    # ---- which entry is for which loader

    def _entry_for(self, known: KnownLoader, loader: DataLoader[Any], site: Site) -> int | None:
        """Return the number of the entry for a loader; print a line and return None if none can be used."""
        from plumb.instrument.main_module import RUNS_AGAIN, runs_script_again

        number, problem = self._found(known, site)
        where = f"{known.name} ({site})"
        if number is None:
            if problem:
                self._say(f"{where}: {problem}; {_AS_IT_IS}")
            elif not site.by_library:
                self._say(f"{where} is not in the plan; it runs as the script has it. Tune again to add it.")
            return None
        planned = self._plan.loaders[number]
        if self._owners.setdefault(number, known) is not known:
            self._contested.add(number)
            self._say(f"{where} and {self._name(number)} both fit one entry of the plan; {_AS_IT_IS}")
            return None
        if not _changes(planned):
            return None
        if planned.unsafe:
            self._say(f"{where}: the plan is not used any more, {planned.unsafe}; {_AS_IT_IS}")
            return None
        if planned.delivered is not None and planned.delivered.is_slower:
            self._say(f"{where}: the plan is not used any more, an earlier run was slower on it; {_AS_IT_IS}")
            return None
        if runs_script_again(planned.config, loader.multiprocessing_context):
            self._say(f"{where} {RUNS_AGAIN}")
            return None
        return number

    def _found(self, known: KnownLoader, site: Site) -> tuple[int | None, str]:
        """Return the number of the entry that fits a loader; None with a reason if one nearly does."""
        identity = known.identity
        assert identity is not None
        at_place = [
            (number, planned.identity)
            for number, planned in enumerate(self._plan.loaders)
            if planned.identity is not None and planned.identity.place == identity.place
        ]
        fitting = [number for number, planned in at_place if not difference_of_loaders(planned, identity)]
        if len(fitting) == 1:
            return fitting[0], ""
        if fitting:
            return None, "several entries of the plan fit it"
        if at_place:
            nearest = [planned for _, planned in at_place if planned.order == identity.order]
            return None, difference_of_loaders(nearest[0], identity) if nearest else ""
        return self._found_by_name(known, site)

    def _found_by_name(self, known: KnownLoader, site: Site) -> tuple[int | None, str]:
        """Find the entry in a plan of an older plumb by name and file, because lines move when a script is edited."""
        loaders = [(number, planned) for number, planned in enumerate(self._plan.loaders) if planned.identity is None]
        file = str(site).rsplit(":", 1)[0]
        named = [pair for pair in loaders if pair[1].site.rsplit(":", 1)[0] == file and pair[1].name == site.name]
        on_line = [pair for pair in loaders if pair[1].site == str(site)]
        number, planned = next(iter(named or on_line), (None, None))
        if planned is None or number is None:
            return None, ""
        assert known.identity is not None
        if known.batch_size != planned.batch_size:
            # A library that builds its own loader from the script's inherits the plan's arguments from that one.
            words = f"it has batch size {known.batch_size}, the plan was made for {planned.batch_size}"
            return None, "" if site.by_library else words
        return number, ""

    # ---- loaders that were changed

    def _put_in(self, loader: DataLoader[Any], number: int, rewrites: bool = True) -> None:
        # Torch's advice on worker counts considers cores only; this count was measured.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        set_attributes(loader, plans_attributes(loader, self._plan.loaders[number].config))
        self._noted(loader, rewrites)

    def _hand_on(self, loader: DataLoader[Any], known: KnownLoader) -> None:
        """Register a loader that a library has built from the parts of a changed one."""
        number = next((number for number, owner in self._owners.items() if owner is known), None)
        first = self._first_of(known)
        if number is None or first is None or not _changes(self._plan.loaders[number]):
            return
        vars(loader)[_MARK] = number, {**first.users}
        # A library may pass on the first one's batch sampler instead of its batch size. If it makes batches of its own,
        # they come from the plan's workers, without the rest of the plan.
        sizes = loader.batch_size, getattr(loader.batch_sampler, "batch_size", None)
        self._put_in(loader, number, rewrites=self._plan.loaders[number].batch_size in sizes)

    def _first_of(self, known: KnownLoader) -> _PlannedByHandler | None:
        return next((each for each in self._changed.values() if self._owners.get(each.number) is known), None)

    def _noted(self, loader: DataLoader[Any], rewrites: bool = True) -> _PlannedByHandler | None:
        mark = vars(loader).get(_MARK)
        if mark is None:
            return None
        number, users = mark
        planned = self._plan.loaders[number]
        planned = planned if rewrites else _with_workers_only(planned)
        clock = self._clocks.get(number)
        changed = self._changed[id(loader)] = _PlannedByHandler(loader, number, planned, users, clock)
        if changed.clock is not None:
            # Loaders that are remade for each epoch are measured as one.
            self._clocks[number] = changed.clock
        weakref.finalize(loader, self._changed.pop, id(loader), None).atexit = False
        return changed

    def _moved(
        self, changed: _PlannedByHandler, loader: DataLoader[Any], known: KnownLoader
    ) -> _PlannedByHandler | None:
        """Give a loader that turned out to be different from an earlier one an entry of its own, if there is one."""
        changed.become_plain(loader)
        number = self._entry_for(known, loader, known.site)
        if number is None:
            return None
        vars(loader)[_MARK] = number, changed.users
        self._put_in(loader, number)
        return self._changed[id(loader)]

    def _problem(self, changed: _PlannedByHandler, loader: DataLoader[Any], known: KnownLoader | None) -> str:
        from plumb.runtime.guards.plan_fit import PlanFit

        if changed.number in self._contested:
            return "another loader fits the same entry of the plan"
        planned = self._plan.loaders[changed.number]
        # If loaders are remade for each epoch, the first is compared with the plan, and the others with the first.
        fit = self._fits.get(changed.number)
        if fit is None:
            fit = PlanFit(planned, planned.identity.facts if planned.identity else None)
            self._fits[changed.number] = fit
        is_first = changed.epochs == 0
        changed.epochs += 1
        return fit.misfit(loader, known.facts_of(loader) if is_first and known is not None else None)

    def _name(self, number: int) -> str:
        planned, owner = self._plan.loaders[number], self._owners.get(number)
        return f"{planned.name} ({owner.site if owner else planned.site})"

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            print(f"plumb: {text}", file=sys.stderr)


class _PlannedByHandler:
    """A loader with the plan's arguments. `users` are the script's own."""

    def __init__(
        self,
        loader: DataLoader[Any],
        number: int,
        planned: LoaderResult,
        users: dict[str, Any],
        clock: RunClock | None,
    ) -> None:
        from plumb.runtime.loader_clock import clock_of
        from plumb.runtime.planned_loader import PlannedLoader

        self.number = number
        self.users = users
        self.epochs = 0
        self.is_plain = False
        self.clock = clock or clock_of(loader, planned, _config_of(users))
        self.planned: PlannedLoader | None = PlannedLoader(loader, planned, _config_of(users), users, clock=self.clock)

    def become_plain(self, loader: DataLoader[Any]) -> None:
        """Restore the loader's own arguments from now on."""
        self.is_plain, self.planned = True, None
        # Persistent workers would run on the plan.
        loader._iterator = None
        set_attributes(loader, self.users)


def _changes(planned: LoaderResult) -> bool:
    return planned.tuned.config != planned.baseline.config


def _with_workers_only(planned: LoaderResult) -> LoaderResult:
    """Return the entry with only torch's own arguments in its configuration."""
    config = planned.config
    torchs = Config(
        num_workers=config.num_workers,
        prefetch_factor=config.prefetch_factor,
        persistent_workers=config.persistent_workers,
        pin_memory=config.pin_memory,
        in_order=config.in_order,
        start_method=config.start_method,
    )
    return dataclasses.replace(planned, tuned=dataclasses.replace(planned.tuned, config=torchs))


def _config_of(attributes: Mapping[str, Any]) -> Config:
    """Return the configuration of a loader with these attributes."""
    return Config(
        num_workers=attributes["num_workers"],
        prefetch_factor=attributes["prefetch_factor"] if attributes["num_workers"] else None,
        persistent_workers=attributes["persistent_workers"],
        pin_memory=attributes["pin_memory"],
        in_order=attributes.get("in_order", True),
    )
