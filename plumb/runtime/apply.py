"""A plan's configurations, put into the script's own loaders where they are constructed."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from plumb.config import Config
from plumb.plan import LoaderPlan, Plan
from plumb.site import Site

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from plumb.runtime.planned import Planned

# On a loader that was changed, the number of its entry in the plan: copies of the loader have it too.
_MARK = "_plumb_loader"


class PlanApplied:
    """An `intercept.Handler` that changes the arguments of the loaders that the plan knows, and no others."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._said: set[str] = set()
        # By identity: a subclass of the user's may be equal to others, or have no hash.
        self._changed: dict[int, Planned] = {}

    def constructing(self, site: Site, arguments: dict[str, Any]) -> dict[str, Any]:
        """The loader's arguments with the plan's in their place, where the plan is for this very loader."""
        from plumb.runtime.main_module import runs_script_again
        from plumb.runtime.refused import check

        planned = self._find(site)
        if planned is None:
            if not site.by_library:
                self._say(
                    f"{site.name} ({site}) is not in the plan; it runs as the script has it. Tune again to add it."
                )
            return arguments
        if _batch_size(arguments) != planned.batch_size:
            # A library that builds its own loader from the script's takes over what the plan gave that one.
            if not site.by_library:
                self._say(
                    f"{site.name} ({site}) has batch size {_batch_size(arguments)}, the plan was made for "
                    f"{planned.batch_size}; it runs as the script has it. Tune again to renew the plan."
                )
            return arguments
        if not _changes(planned):
            return arguments
        if runs_script_again(planned.tuned.config, arguments.get("multiprocessing_context")):
            self._say(
                f"{site.name} ({site}) would have workers that run the script once more; it runs as the script has it. "
                "Put the script's main part under: if __name__ == '__main__'"
            )
            return arguments
        check(arguments)
        # Torch's advice on worker counts looks at cores alone; this count was measured.
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        return with_config(arguments, planned.tuned.config)

    def constructed(self, loader: DataLoader[Any], site: Site) -> None:
        """Takes note of a loader that was changed."""
        from plumb.runtime.main_module import runs_script_again

        planned = self._find(site)
        if planned is None or not _changes(planned):
            return
        if runs_script_again(planned.tuned.config, loader.multiprocessing_context):
            return
        if planned.batch_size == loader.batch_size:
            vars(loader)[_MARK] = self._plan.loaders.index(planned)
            self._note(loader, planned)

    def iterating(self, loader: DataLoader[Any], start: Callable[[], Iterator[Any]], plain_loop: bool) -> Iterator[Any]:
        """Starts an epoch, on the plan where the loader was changed by it."""
        changed = self._changed.get(id(loader))
        if changed is None:
            mark = vars(loader).get(_MARK)
            if mark is None:
                return start()
            changed = self._note(loader, self._plan.loaders[mark])
        return changed.start(loader, start, self._say)

    def _note(self, loader: DataLoader[Any], planned: LoaderPlan) -> Planned:
        from plumb.runtime.planned import Planned

        changed = self._changed[id(loader)] = Planned(loader, planned, planned.baseline.config)
        weakref.finalize(loader, self._changed.pop, id(loader), None).atexit = False
        return changed

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


def _changes(planned: LoaderPlan) -> bool:
    return planned.tuned.config != planned.baseline.config


def _batch_size(arguments: dict[str, Any]) -> int | None:
    return arguments.get("batch_size", 1) if arguments.get("batch_sampler") is None else None


def with_config(arguments: dict[str, Any], config: Config) -> dict[str, Any]:
    """The arguments of torch's `DataLoader` with those of `config` in their place."""
    replaced = ("num_workers", "prefetch_factor", "persistent_workers", "pin_memory", "in_order")
    kept = {name: value for name, value in arguments.items() if name not in replaced}
    if config.num_workers == 0:
        # Torch refuses these without workers.
        kept.pop("multiprocessing_context", None)
        kept.pop("timeout", None)
    return {**kept, **config.loader_arguments()}
