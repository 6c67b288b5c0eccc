"""Plans that were not tuned: each loader that a script iterates, on a configuration from outside.

`python -m tests.parts.forced PLAN SCRIPT [ARGS]...` runs a script and writes its plan.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plumb.core import plan
from plumb.core.config import Config
from plumb.core.plan import LoaderResult, Measured, Plan, Prediction
from plumb.instrument import script_settings
from plumb.instrument.construction_trace import construction_of
from plumb.script import interception
from plumb.script.child import run_script
from plumb.tuning.child_orders import Target

WORKERS = Config(num_workers=2, prefetch_factor=2, persistent_workers=True)
_RATE, _BETTER_RATE = (90.0, 110.0), (190.0, 210.0)


class Recorder:
    """An `interception.Handler` that changes nothing, and makes an entry of a plan for each loader that is iterated."""

    def __init__(self, wanted: Config) -> None:
        self.entries: dict[str, LoaderResult] = {}
        self._registry: Any = None
        self._wanted = wanted

    def constructing(self, site: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        return arguments

    def constructed(self, loader: Any, site: Any) -> None:
        from plumb.script.loader_registry import Registry

        self._registry = self._registry or Registry()
        known, is_new = self._registry.add(loader, site)
        if is_new:
            known.construction = construction_of(loader, sys._getframe(1))

    def iterating(self, loader: Any, start: Callable[[], Iterator[Any]], plain_loop: bool) -> Iterator[Any]:
        known = self._registry.iterated(loader)
        if known is not None:
            known.epochs_begun += 1
            self.entries.setdefault(known.name, entry_for(known, loader, self._wanted))
        return start()


def entry_for(known: Any, loader: Any, wanted: Config) -> LoaderResult:
    """A plan's entry for a loader of the registry, as a tuning would have made it if it had chosen `wanted`."""
    from plumb.runtime.loader import current_config

    users = current_config(loader)
    return LoaderResult(
        name=known.name,
        site=str(known.site),
        dataset=type(loader.dataset).__name__,
        batch_size=known.batch_size,
        baseline=Measured(users, 100.0, _RATE),
        tuned=Measured(_allowed(loader, users, wanted), 200.0, _BETTER_RATE),
        predicted=Prediction(200.0, "cpu", {"cpu": 1.0}),
        library=known.site.library,
        identity=known.identity,
        construction=known.construction,
    )


def forced(tuned: LoaderResult, wanted: Config = WORKERS) -> LoaderResult:
    """The entry of a tuned plan with another configuration in its place."""
    config = dataclasses.replace(wanted, pin_memory=tuned.baseline.config.pin_memory)
    return dataclasses.replace(tuned, tuned=Measured(config, 200.0, _BETTER_RATE))


def _allowed(loader: Any, users: Config, wanted: Config) -> Config:
    """`wanted`, as far as a tuning could ever choose it.

    A stream keeps the number of its workers, and workers that persist go on doing so.
    """
    from torch.utils.data import IterableDataset

    lasts = wanted.persistent_workers or users.persistent_workers
    wanted = dataclasses.replace(wanted, pin_memory=users.pin_memory, persistent_workers=lasts)
    if not isinstance(loader.dataset, IterableDataset):
        return wanted
    if not users.num_workers:
        return dataclasses.replace(users, allocator_reuse=wanted.allocator_reuse)
    return dataclasses.replace(wanted, num_workers=users.num_workers)


def record(script: str, arguments: list[str], plan_file: Path, wanted: Config = WORKERS) -> None:
    """Runs a script in this process with a recorder, and writes the plan, however the script ends."""
    recorder = Recorder(wanted)
    interception.install(recorder)
    script_settings.listen()
    try:
        # No assignment: a loader's name is looked for in its callers' statements, too.
        _raise(run_script(Target(script, False), arguments))
    finally:
        plan.write(Plan(script, {}, 1.0, 1.0, tuple(recorder.entries.values())), plan_file)


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error


if __name__ == "__main__":
    record(sys.argv[2], sys.argv[3:], Path(sys.argv[1]))
