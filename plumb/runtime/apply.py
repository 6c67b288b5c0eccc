"""A plan's configurations, put into the script's own loaders where they are constructed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plumb.plan import Config, LoaderPlan, Plan
from plumb.site import Site

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


class PlanApplied:
    """An `intercept.Handler` that changes the arguments of the loaders that the plan knows, and no others."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._said: set[str] = set()
        self._applied: dict[int, _Persistent] = {}

    def constructing(self, site: Site, arguments: dict[str, Any]) -> dict[str, Any]:
        """The loader's arguments with the plan's in their place, where the plan is for this very loader."""
        planned = self._find(site)
        if planned is None:
            if not site.by_library:
                self._say(
                    f"{site.name} ({site}) is not in the plan; it runs as the script has it. Tune again to add it."
                )
            return arguments
        batch_size = arguments.get("batch_size", 1) if arguments.get("batch_sampler") is None else None
        if batch_size != planned.batch_size:
            self._say(
                f"{site.name} ({site}) has batch size {batch_size}, the plan was made for {planned.batch_size}; it "
                "runs as the script has it. Tune again to renew the plan."
            )
            return arguments
        if planned.tuned.config == planned.baseline.config:
            return arguments
        return with_config(arguments, planned.tuned.config)

    def constructed(self, loader: DataLoader[Any], site: Site) -> None:
        """Nothing more to do."""

    def iterating(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], plain_loop: bool) -> Iterator[Any]:
        """Starts the loader; workers that persist are renewed where the script has changed the dataset since."""
        if loader.persistent_workers and loader.num_workers:
            kept = self._applied.setdefault(id(loader), _Persistent(None))
            now = state_of(loader.dataset)
            if kept.state is not None and kept.state != now:
                self._say(
                    "the script changes its dataset between epochs: the workers are started again, so that they see it"
                )
                loader._iterator = None
            kept.state = now
        return start()

    def _find(self, site: Site) -> LoaderPlan | None:
        """The plan's entry for a loader: by name and file, since lines move when a script is edited."""
        file, line = str(site).rsplit(":", 1)
        named = [p for p in self._plan.loaders if p.site.rsplit(":", 1)[0] == file and p.name == site.name]
        on_line = [p for p in self._plan.loaders if p.site == f"{file}:{line}"]
        return next(iter(named or on_line), None)

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            print(f"plumb: {text}", file=sys.stderr)


@dataclass
class _Persistent:
    state: Any


def with_config(arguments: dict[str, Any], config: Config) -> dict[str, Any]:
    """The arguments of torch's `DataLoader` with those of `config` in their place."""
    from plumb.runtime.loader import worker_init

    replaced = ("num_workers", "prefetch_factor", "persistent_workers", "pin_memory", "in_order")
    kept = {name: value for name, value in arguments.items() if name not in replaced}
    if config.num_workers == 0:
        # Torch refuses these without workers.
        kept.pop("multiprocessing_context", None)
        kept.pop("timeout", None)
    init = worker_init(config, kept.get("worker_init_fn"))
    return {**kept, "worker_init_fn": init, **config.loader_arguments()}


def state_of(value: Any, depth: int = 3) -> Any:
    """What can be seen cheaply of an object's state: simple values, identities, lengths, and versions of tensors.

    Two equal states don't prove that nothing changed deep inside; two different ones prove that something did.
    """
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return value
    if isinstance(value, (list, tuple, dict, set)):
        return id(value), len(value)
    if hasattr(value, "_version"):
        return id(value), value._version
    if depth and hasattr(value, "__dict__"):
        return id(value), tuple((name, state_of(item, depth - 1)) for name, item in vars(value).items())
    return id(value)
