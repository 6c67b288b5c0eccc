"""Initialization of plumb's workers before the user's own `worker_init_fn`."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plumb.host.inherited_files import reopen_inherited_files
from plumb.host.process_control import prepare_sockets
from plumb.instrument.unsent_batches import report_unsent_batches

# No library that a dataset may use is known to handle this signal.
STACK_SIGNAL = getattr(signal, "SIGRTMAX", 64) - 3
_FIRST_TO_GO = "1000"


@dataclass(frozen=True)
class ReopeningInit:
    """`worker_init_fn` that reopens inherited files, and then calls the user's function, if there is one.

    Picklable if the user's function is. In a worker that was not forked there is nothing to reopen.
    """

    then: Callable[[int], None] | None

    def __call__(self, worker_id: int) -> None:
        """Give the worker its own open files."""
        report_unsent_batches(worker_id)
        prepare_sockets()
        reopen_inherited_files()
        if self.then is not None:
            self.then(worker_id)


@dataclass(frozen=True)
class WatchedInit:
    """`worker_init_fn` of a trial worker that then calls the user's. Picklable if that is.

    `stacks` is the path of the file for its stack.
    """

    stacks: str
    then: Callable[[int], None] | None

    def __call__(self, worker_id: int) -> None:
        _say_nothing()
        # If the system runs out of memory, it should kill this process, and not the training.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write(_FIRST_TO_GO)
        with contextlib.suppress(OSError):
            file = os.open(self.stacks, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            faulthandler.register(STACK_SIGNAL, file=file, all_threads=True)
        if self.then is not None:
            self.then(worker_id)


def users_init(init: Any) -> Any:
    """Return the user's own `worker_init_fn`, without what plumb's workers do before it."""
    while isinstance(init, (ReopeningInit, WatchedInit)):
        init = init.then
    return init


def _say_nothing() -> None:
    """Discard the worker's standard error: the user's own loop prints the same, or it concerns the trial's end.

    If another worker dies, those that were sending a batch print errors, and so do their finalizers.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    # It may not use the descriptor: a notebook's stream, for example.
    sys.stderr = os.fdopen(2, "w", closefd=False)
