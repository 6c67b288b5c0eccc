"""`plumb.tuned`: loaders over the datasets that it marks run on their plan, and are tuned once if they have none."""

from __future__ import annotations

import functools
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from plumb.api.argument_checks import Size, folder_of, limits_of, size_of
from plumb.instrument.call_site import Site, find_site
from plumb.script import interception
from plumb.tuning.dataset_settings import Settings, is_off, mark, settings_of

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from plumb.core.config import Config
    from plumb.host import Limits
    from plumb.runtime.guards.plan_fit import PlanFit
    from plumb.runtime.planned_loader import PlannedLoader

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Decorator(Protocol):
    """Result of `plumb.tuned` with arguments: it returns the class itself, or a function of the same signature."""

    @overload
    def __call__(self, target: type[T], /) -> type[T]: ...

    @overload
    def __call__(self, target: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def tuned(target: type[T], /) -> type[T]: ...


@overload
def tuned(target: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def tuned(
    *,
    budget: float | None = ...,
    limits: Limits | None = ...,
    plan: str | os.PathLike[str] | None = ...,
    cache_memory_bytes: Size | None = ...,
    cache_dir: str | os.PathLike[str] | None = ...,
    allow_reorder: bool = ...,
    on_device: bool = ...,
    plain: bool = ...,
) -> Decorator: ...


def tuned(
    target: Any = None,
    /,
    *,
    budget: float | None = None,
    limits: Limits | None = None,
    plan: str | os.PathLike[str] | None = None,
    cache_memory_bytes: Size | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    allow_reorder: bool = False,
    on_device: bool = False,
    plain: bool = False,
) -> Any:
    """Mark a Dataset class, or a function that returns a dataset: torch's loaders over it tune themselves.

    A loader over such a dataset, or over a `Subset` of it, runs on the plan for this dataset and this host. If there is
    none, it is tuned once when it is first iterated, and prints one line; the plan is stored in the user's cache folder
    (`$XDG_CACHE_HOME/plumb`, else `~/.cache/plumb`), so the next run starts at once. The loader delivers the same
    samples in the same order as without a plan. Other loaders are left alone.

    The class itself is unchanged, and the function keeps its name and signature. With the environment variable
    `PLUMB=off` neither is touched at all. Under `plumb tune` and `plumb run` the command's own plan takes precedence.

    Args:
        target: The class or function; None if only settings are given, as in `@plumb.tuned(budget=10)`.
        budget: Seconds of tuning; None for 30, or for as long as it needs with `plumb.DataLoader(tune="live")`.
        limits: Limits that may be lower than the host's; None for the host's.
        plan: File of the plan; None for one in the cache folder.
        cache_memory_bytes: Largest memory for stored samples, in bytes or as text such as "4GiB" (0 for none); None for
            what the limits leave.
        cache_dir: Folder in which samples may be stored as well; None for memory alone.
        allow_reorder: Whether batches may come in another order. They never do with `tune="live"`.
        on_device: Whether batches may arrive on the GPU, where their last operators run then. They never do with
            `tune="live"`.
        plain: Whether to tune only torch's own arguments.

    Returns:
        The class itself, or a function like `target`; a decorator if only settings are given.

    Raises:
        TypeError: `target` is neither a class nor a function, or can't be marked, or a setting is of a wrong class.
        ValueError: The budget is not above 0 or not finite, the memory is below 0, or the folder can't be used.

    >>> import plumb, torch
    >>> @plumb.tuned(budget=1)
    ... class Squares(torch.utils.data.Dataset):
    ...     def __len__(self):
    ...         return 64
    ...     def __getitem__(self, index):
    ...         return index ** 2
    >>> loader = torch.utils.data.DataLoader(Squares(), batch_size=32)
    >>> [batch.sum().item() for batch in loader]
    [10416, 74928]
    """
    settings = Settings(
        budget,
        limits_of(limits),
        None if plan is None else os.fspath(plan),
        size_of("cache_memory_bytes", cache_memory_bytes),
        folder_of("cache_dir", cache_dir),
        allow_reorder,
        on_device,
        plain,
    )
    decorate = functools.partial(_decorated, settings)
    return decorate if target is None else decorate(target)


def _decorated(settings: Settings, target: Any) -> Any:
    if not callable(target):
        raise TypeError(
            f"plumb.tuned goes on a Dataset class or on a function that returns a dataset, not on {target!r}"
        )
    if is_off():
        return target
    interception.install_once(MarkedDatasets)
    if isinstance(target, type):
        if not mark(target, settings):
            raise TypeError(f"plumb.tuned can't mark {target!r}: derive a class of your own from it")
        return target

    @functools.wraps(target)
    def making(*args: Any, **kwargs: Any) -> Any:
        dataset = target(*args, **kwargs)
        if not mark(dataset, settings):
            kind = type(dataset).__name__
            print(f"plumb: {target.__qualname__} returned a {kind}, which can't be tuned; "
                  "return a Dataset", file=sys.stderr)  # fmt: skip
        return dataset

    return making


@dataclass(frozen=True)
class _Running:
    """A loader on its plan, and the check that the plan still fits."""

    planned: PlannedLoader
    fit: PlanFit


class MarkedDatasets:
    """`interception.Handler` for the loaders over marked datasets; other loaders are left alone.

    The loader keeps the arguments that the script gave it, so that any reader sees those; its parts are exchanged only
    during the call that starts an epoch.
    """

    def __init__(self) -> None:
        # Keyed by identity, because a user's subclass may define equality or have no hash. The configuration is the
        # script's, which the script may change between two epochs.
        self._running: dict[int, tuple[Config, _Running | None]] = {}

    def constructing(self, site: Site, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the script's arguments unchanged."""
        return arguments

    def constructed(self, loader: DataLoader[Any], site: Site) -> None:
        """Do nothing, because datasets may still get their transforms before the loader is iterated."""

    def iterating(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], plain_loop: bool) -> Iterator[Any]:
        """Start an epoch; a loader over a marked dataset runs on its plan."""
        settings = settings_of(loader.dataset)
        if settings is None or is_off() or getattr(type(loader), "tunes_itself", False):
            return start()
        from plumb.api.self_tuning import say
        from plumb.runtime.loader import current_config

        own = current_config(loader)
        known, running = self._running.get(id(loader), (None, None))
        if known != own:
            running = self._planned(loader, own, settings)
            if known is None:
                weakref.finalize(loader, self._running.pop, id(loader), None).atexit = False
            self._running[id(loader)] = own, running
        if running is None:
            return start()
        misfit = running.fit.misfit(loader)
        if misfit:
            where = site_of(loader)
            say(f"{where.name} ({where}): {misfit}; from here on it runs as the script has it")
            self._running[id(loader)] = own, None
            return start()
        return running.planned.start_unseen(loader, start, say)

    def read_by_dataset(self, loader: DataLoader[Any]) -> None:
        """Do nothing: the loader keeps what the script gave it."""

    def _planned(self, loader: DataLoader[Any], own: Config, settings: Settings) -> _Running | None:
        from plumb.api.self_tuning import find_or_tune
        from plumb.runtime.guards.plan_fit import PlanFit
        from plumb.runtime.planned_loader import PlannedLoader

        planned = find_or_tune(loader, site_of(loader), settings, may_tune=True)
        if planned is None or planned.config == own:
            return None
        return _Running(PlannedLoader(loader, planned, own), PlanFit(planned, None))


def site_of(loader: DataLoader[Any]) -> Site:
    """Return the place in the user's code that iterates a loader, named after its dataset."""
    site = find_site(sys._getframe(1))
    return Site(site.file, site.line, type(loader.dataset).__name__)
