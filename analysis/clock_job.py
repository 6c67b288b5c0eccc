"""A script with or without its plan, its epochs timed from outside of plumb.

    python -m analysis.clock_job PLAN OUT LOADER EPOCHS SCRIPT [ARGS]...

PLAN is a plan's file, or `-` for none. Every epoch of the loader called LOADER is timed from `iter` to its end, and the
script ends behind EPOCHS of them; OUT gets their seconds as JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plumb.core import plan
from plumb.host.process_control import end_children
from plumb.instrument.call_site import Site
from plumb.script import interception
from plumb.script.child import run_script
from plumb.script.loader_registry import Registry
from plumb.script.plan_handler import PlanHandler
from plumb.tuning.child_orders import Target


class Plain:
    """An `interception.Handler` that changes nothing."""

    def constructing(self, site: Site, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments as they are."""
        return arguments

    def constructed(self, loader: Any, site: Site) -> None:
        """Do nothing."""

    def iterating(self, loader: Any, start: Callable[[], Iterator[Any]], plain_loop: bool) -> Iterator[Any]:
        """Return torch's own iterator."""
        return start()

    def read_by_dataset(self, loader: Any) -> None:
        """Do nothing."""


class Timed:
    """The iterator that a loop gets: another one's batches, and the time at which it ended."""

    def __init__(self, batches: Iterator[Any], ended: Callable[[], None]) -> None:
        self._batches = batches
        self._ended = ended

    def __iter__(self) -> "Timed":
        return self

    def __next__(self) -> Any:
        try:
            return next(self._batches)
        except StopIteration:
            self._ended()
            raise

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


class Timing:
    """An `interception.Handler` that times the epochs of one loader; another one decides on how it runs."""

    def __init__(self, inner: interception.Handler, name: str, epochs: int, out: Path) -> None:
        self._inner, self._name, self._epochs, self._out = inner, name, epochs, out
        self._registry = Registry()
        self._begun = 0.0
        self._seconds: list[float] = []

    def constructing(self, site: Site, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return what the inner handler returns."""
        return self._inner.constructing(site, arguments)

    def constructed(self, loader: Any, site: Site) -> None:
        """Tells the inner one."""
        self._registry.add(loader, site)
        self._inner.constructed(loader, site)

    def iterating(self, loader: Any, start: Callable[[], Iterator[Any]], plain_loop: bool) -> Iterator[Any]:
        """Begins an epoch, or ends the script."""
        known = self._registry.of(loader)
        if known is None or known.name != self._name:
            return self._inner.iterating(loader, start, plain_loop)
        known.epochs_begun += 1
        if self._begun:
            # The loop has left its epoch by `break`.
            self._ended()
        if len(self._seconds) >= self._epochs:
            self.write()
            end_children()
            os._exit(0)
        self._begun = time.perf_counter()
        return Timed(self._inner.iterating(loader, start, plain_loop), self._ended)

    def read_by_dataset(self, loader: Any) -> None:
        """Tells the inner one."""
        self._inner.read_by_dataset(loader)

    def write(self) -> None:
        """Write the seconds of all epochs so far."""
        self._out.write_text(json.dumps(self._seconds))

    def _ended(self) -> None:
        if self._begun:
            self._seconds.append(time.perf_counter() - self._begun)
            self._begun = 0.0


def main() -> None:
    """Run the script."""
    plan_file, out, name, epochs, script, *arguments = sys.argv[1:]
    inner = Plain() if plan_file == "-" else PlanHandler(plan.read(Path(plan_file)))
    timing = Timing(inner, name, int(epochs), Path(out))
    interception.install(timing)
    error = run_script(Target(script, False), arguments)
    timing.write()
    if error is not None:
        raise error


if __name__ == "__main__":
    main()
