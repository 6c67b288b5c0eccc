"""One loader of the user's on a planned configuration: every epoch is started as the plan says, in the user's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from plumb.config import Config
from plumb.plan import LoaderPlan
from plumb.runtime.allocator import Reuse
from plumb.runtime.epochs import Epochs, state_of
from plumb.runtime.handed import Handing
from plumb.runtime.inherited_files import ReopeningInit
from plumb.runtime.running import Running, exchanged
from plumb.runtime.saved_state import is_stateful


class Planned:
    """Starts the epochs of a loader on what was planned for it; `users` is the configuration that the script gave it.

    Lasts as long as the loader; the process uses its memory again meanwhile, where the plan says so.
    """

    def __init__(self, loader: DataLoader[Any], planned: LoaderPlan, users: Config) -> None:
        config = self._config = planned.config
        self._users = users
        self._epochs = Epochs(loader, users)
        self._handing = Handing()
        self._running = Running(config, planned.rewrites, is_planned=True) if config.needs_runtime else None
        self._reuse = Reuse() if config.allocator_reuse else None
        self._dataset: Any = None

    def start(
        self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], say: Callable[[str], None]
    ) -> Iterator[Any]:
        """The next epoch's iterator, which torch's `start` makes or resets; the loader has the plan's arguments.

        Workers that persist are renewed where the script has changed the dataset since.
        """
        if is_stateful(loader):
            return self._start_stateful(loader, start)
        before, self._dataset = self._dataset, state_of(loader.dataset)
        is_stale = before is not None and before != self._dataset
        if self._running is not None:
            is_stale = is_stale or self._running.is_stale(loader.dataset)
        if is_stale and self._handing.has_workers:
            say("the script changes its dataset between epochs: workers are started again, so that they see it")
            self._handing.renew()
        epoch = partial(self._epochs.start, loader, start)
        if self._running is not None:
            epoch = partial(self._running.start, loader, epoch)
        persists_by_plan = loader.persistent_workers and not self._users.persistent_workers
        with exchanged(loader, {"worker_init_fn": ReopeningInit(loader.worker_init_fn)} if loader.num_workers else {}):
            return self._handing.start(loader, epoch) if persists_by_plan else epoch()

    def _start_stateful(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Start an epoch of a loader that saves its place: on its own iterator, with the script's own workers.

        What was saved can be loaded by the script without a plan, and the other way round.
        """
        with exchanged(loader, attributes_of(loader, self._users)):
            return start() if self._running is None else self._running.start(loader, start)

    def start_unseen(
        self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], say: Callable[[str], None]
    ) -> Iterator[Any]:
        """The same for a loader that keeps the script's own arguments: they are exchanged for the time of this call."""
        with exchanged(loader, attributes_of(loader, self._config)):
            return self.start(loader, start, say)


def attributes_of(loader: DataLoader[Any], config: Config) -> dict[str, Any]:
    """What `loader` has to hold at `iter` in order to run on `config`, as far as this torch knows of it.

    Torch refuses a timeout without workers.
    """
    attributes: dict[str, Any] = {
        "num_workers": config.num_workers,
        "prefetch_factor": config.prefetch_factor,
        "persistent_workers": config.persistent_workers,
        "pin_memory": config.pin_memory,
        "in_order": config.in_order,
        "timeout": loader.timeout if config.num_workers else 0,
    }
    if config.start_method and config.num_workers:
        attributes["multiprocessing_context"] = config.start_method
    return {name: value for name, value in attributes.items() if hasattr(loader, name)}
