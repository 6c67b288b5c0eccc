"""Runs all cases in each way, in a process for each way; prints one JSON object: way -> case -> what it returned.

The ways: `plain`; `unchanged`, with plumb's interception on a plan that changes nothing; `changed`, on the case's plan;
`reused`, where that also uses memory again; `unseen`, on the case's plan as a loader over a dataset that `plumb.tuned`
marked, which keeps the script's arguments; and `torch`, without plumb, but with the plan's arguments in the script.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from documented import batches, errors, iteration, loader_object, streams, workers
from documented.case import CASES, Case, plan_of

from plumb.core.config import Config
from plumb.script import interception
from plumb.script.plan_handler import PlanHandler

# Importing them makes the cases.
MODULES = (batches, errors, iteration, loader_object, streams, workers)
WAYS = ("plain", "unchanged", "changed", "reused", "unseen", "torch")
_CASE_SECONDS = 40


class Unseen(PlanHandler):
    """Loaders of the case's plan as `plumb.api.decorator.MarkedDatasets` runs those over marked datasets."""

    def _put_in(self, loader: Any, number: int) -> None:
        self._noted(loader)

    def iterating(self, loader: Any, start: Any, plain_loop: bool) -> Iterator[Any]:
        changed = self._changed.get(id(loader))
        return start() if changed is None else changed.planned.start_unseen(loader, start, self._say)


class OfTheCase:
    """A handler that passes all on to that of the case which runs."""

    handler: interception.Handler

    def constructing(self, site: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        return self.handler.constructing(site, arguments)

    def constructed(self, loader: Any, site: Any) -> None:
        self.handler.constructed(loader, site)

    def iterating(self, loader: Any, start: Any, plain_loop: bool) -> Iterator[Any]:
        return self.handler.iterating(loader, start, plain_loop)


def outcome(case: Case, given: Config) -> dict[str, Any]:
    """What the case returns, the warnings that it gives, and what its processes print on standard error."""
    with (
        tempfile.TemporaryFile() as printed,
        printing_to(printed.fileno()),
        warnings.catch_warnings(record=True) as seen,
    ):
        warnings.simplefilter("always")
        # Torch's advice on worker counts depends on the machine.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        # Whether other threads run in a process that forks, such as those of a linear algebra library, does too.
        warnings.filterwarnings("ignore", message=".* is multi-threaded, use of fork", category=DeprecationWarning)
        signal.alarm(_CASE_SECONDS)
        try:
            returned = case.run(given.loader_arguments())
        except Exception:
            returned = {"failed": traceback.format_exc()}
        signal.alarm(0)
        gc.collect()
        printed.seek(0)
        lines = printed.read().decode().splitlines()
    return {
        **returned,
        "warnings": [(each.category.__name__, str(each.message), os.path.basename(each.filename)) for each in seen],
        "standard error": [line for line in lines if not line.startswith("plumb: ")],
    }


@contextlib.contextmanager
def printing_to(descriptor: int) -> Iterator[None]:
    """Standard error, that of processes started meanwhile included, goes to `descriptor`."""
    kept = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def outcomes(way: str, names: list[str]) -> dict[str, Any]:
    current = OfTheCase()
    if way in ("unchanged", "changed", "reused", "unseen"):
        interception.install(current)
    found: dict[str, Any] = {}
    ran: dict[Any, Any] = {}
    for name in names:
        case = CASES[name]
        if way == "torch" and not case.like_torch:
            continue
        tuned = case.planned if way in ("changed", "reused", "unseen") else case.users
        if way == "reused":
            tuned = dataclasses.replace(tuned, allocator_reuse=True)
        given = case.planned if way == "torch" else case.users
        if (case.run, given, tuned) not in ran:
            handler = Unseen if way == "unseen" else PlanHandler
            current.handler = handler(plan_of(case.file, case.batch_size, case.users, tuned))
            ran[case.run, given, tuned] = outcome(case, given)
        found[name] = ran[case.run, given, tuned]
    return found


def is_late(*_: Any) -> None:
    raise TimeoutError(f"ran for {_CASE_SECONDS} seconds")


def main() -> None:
    names = sys.argv[1:] or list(CASES)
    # What is here already is never garbage, and need not be looked at each time.
    gc.freeze()
    signal.signal(signal.SIGALRM, is_late)
    children = []
    for way in WAYS:
        reading, writing = os.pipe()
        if not (pid := os.fork()):
            with os.fdopen(writing, "w") as result:
                json.dump(outcomes(way, names), result)
            os._exit(0)
        os.close(writing)
        children.append((way, pid, reading))
    found = {}
    for way, pid, reading in children:
        with os.fdopen(reading) as result:
            found[way] = json.load(result)
        os.waitpid(pid, 0)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
