"""Run of a user's script in a child process under plumb: start, events, and a safe end.

The child leads a process group of its own. Its output is passed on as it arrives; its events arrive on a pipe.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec

from plumb.core.errors import CommandError
from plumb.core.events import Event, EventReader, LoaderIterated, TuningStarted, Warned
from plumb.core.files_outcome import FilesOutcome
from plumb.host import standard_streams
from plumb.host.process_control import end_marked, end_trees
from plumb.host.signals import ended_by_signals, signals_held_back
from plumb.instrument import stack_dump
from plumb.journal.keeping import Keeper
from plumb.runtime.store.store_folder import disk_root, remove_abandoned
from plumb.script import interpreter_flags
from plumb.tuning.child_orders import Orders, TuneOrders
from plumb.tuning.overtime import grace_seconds

# A tuning that has spent its budget may still be about to start workers, which may take as long as the script took to
# reach its first loader.
_GRACE_STARTS = 2.0
_POLL_SECONDS = 0.1
_IMPORT_SECONDS = 15.0
# Imports from a slow disk, or ranks that wait for each other, may take several times as long as any other start.
_STARTS_AT_MOST = 4
# A rank that takes part in another one's tuning runs from that one's start to its end.
_BUDGETS_OF_OTHERS = 3
# A signal ends such a rank at once when the tuning is over.
_OTHERS_SECONDS = 10.0


@dataclass(frozen=True)
class ScriptOutcome:
    """End of the child: its exit code (negative for a signal), or that plumb ended it because its time was up.

    `stack` has the script's calls when time was up, from the innermost outwards, one line each.
    """

    exit_code: int
    timed_out: bool
    seconds: float
    stack: tuple[str, ...]


def run_tuned(
    orders: Orders,
    arguments: list[str],
    on_event: Callable[[Event], None],
    on_output: Callable[[bytes], None],
    is_over: Callable[[], bool] | None = None,
    on_files: Callable[[FilesOutcome], None] | None = None,
    clean: bool = False,
) -> ScriptOutcome:
    """Run the script with a tuning session until it ends or its time is up, and restore its files.

    KeyboardInterrupt, and any other exception of the callbacks, ends the child with all its workers and is raised
    again; a signal that ends this process takes effect afterwards.

    Args:
        orders: Orders for the child.
        arguments: The script's arguments.
        on_event: Called with each event.
        on_output: Called with the script's output.
        is_over: Returns whether a rank that takes part in another one's tuning is not needed any more; None for the
            rank that tunes.
        on_files: Called at the end, in any case, with what was done with the script's files.
        clean: Whether to remove the files that the script made.
    """
    assert orders.tune is not None
    standard_streams.open_missing((0, 1, 2))
    budget = orders.tune.budget_seconds * (_BUDGETS_OF_OTHERS if is_over else 1)
    events_in, events_out = os.pipe()
    # Named as Python's own, because the path of a socket is limited to about a hundred characters. Workers that outlive
    # the child for a moment may still write there.
    folder = tempfile.TemporaryDirectory(prefix="pymp-", ignore_cleanup_errors=True)
    launch = Path(orders.tune.launch_file).name if orders.tune.launch_file else None
    try:
        keeper = Keeper((Path.cwd(), orders.target.folder()), _own_files(orders.tune), folder.name, launch)
    except OSError as error:
        why = f"{error.filename or 'the cache folder'}: {(error.strerror or str(error)).lower()}"
        text = f"what keeps your script's files safe can't be written ({why}); make room, or set XDG_CACHE_HOME"
        raise CommandError(text) from None
    with ended_by_signals(), folder, tempfile.TemporaryFile() as stack, keeper:
        orders = msgspec.structs.replace(
            orders, events_descriptor=events_out, stack_descriptor=stack.fileno(), sockets_folder=folder.name
        )
        started = time.monotonic()
        child = subprocess.Popen(
            _command(orders, arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(events_out, stack.fileno()),
            start_new_session=True,
            env=keeper.environment(os.environ),
        )
        os.close(events_out)
        try:
            for sentence in keeper.recovered:
                on_event(Warned(sentence))
            deadline = _Deadline(budget, lambda: _read_all(stack.fileno()))
            timed_out = _listen(child, events_in, deadline, on_event, on_output, is_over or _never, keeper)
        finally:
            with signals_held_back():
                end_trees([child.pid])
                child.wait()
                end_marked(keeper.mark)
                os.close(events_in)
                remove_abandoned()
                files = keeper.put_back(clean, 0.0 if is_over else _OTHERS_SECONDS)
            if on_files is not None:
                on_files(files)
        lines = stack_dump.calls(_read_all(stack.fileno())) if timed_out else ()
        return ScriptOutcome(child.returncode, timed_out, time.monotonic() - started, lines)


def _own_files(orders: TuneOrders) -> list[str]:
    """Return the files and folders that plumb itself writes in the script's process."""
    own = [orders.kept_file, orders.launch_file]
    if orders.cache_folder is not None:
        own.append(str(disk_root(Path(orders.cache_folder))))
    database = (orders.study_url or "").partition(":///")[2]
    if database:
        own += [f"{database}{end}" for end in ("", "-journal", "-wal", "-shm")]
    return [path for path in own if path]


def _never() -> bool:
    return False


def _read_all(descriptor: int) -> str:
    """Return a file's content without moving its offset, which the child shares for its own writes."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


def start_seconds(budget_seconds: float) -> float:
    """Return the time that a script may take to its first loader: the budget, but at least the time of imports.

    It is extended up to `_STARTS_AT_MOST` times in all if the script is then still in its imports, or waits for other
    ranks.
    """
    return max(budget_seconds, _IMPORT_SECONDS)


def replace_by(orders: Orders, arguments: list[str]) -> NoReturn:
    """Replace this process by the script, so that signals, terminal and exit code are the script's own."""
    command = _command(orders, arguments)
    sys.stdout.flush()
    os.execv(command[0], command)


def _command(orders: Orders, arguments: list[str]) -> list[str]:
    options = interpreter_flags.options(interactive=orders.tune is None)
    return [sys.executable, *options, "-m", "plumb.script.child", orders.to_argument(), *arguments]


class _Deadline:
    """Time at which a script is ended.

    A loader must be iterated within `start_seconds`, or later if `stack`, the dumps of the script's calls, shows that
    it was still starting; afterwards there is the budget to find out what trains, and the budget again to tune, each
    with some extra time.
    """

    def __init__(self, budget_seconds: float, stack: Callable[[], str]) -> None:
        self._budget_seconds = budget_seconds
        self._stack = stack
        self._begun = time.monotonic()
        self._grace_seconds = 0.0
        self._starts_left = _STARTS_AT_MOST - 1
        self._at = self._begun + start_seconds(budget_seconds)
        self._at_most = self._begun + _STARTS_AT_MOST * start_seconds(budget_seconds)

    def note_event(self, event: Event) -> None:
        """Move the deadline if the event shows progress of the script."""
        if isinstance(event, (LoaderIterated, TuningStarted)):
            now = time.monotonic()
            self._grace_seconds = self._grace_seconds or max(
                grace_seconds(self._budget_seconds), _GRACE_STARTS * (now - self._begun)
            )
            self._starts_left = 0
            self._at = now + self._budget_seconds + self._grace_seconds

    def has_come(self) -> bool:
        """Return whether the deadline has passed, unless the script gets another extension for its start."""
        now = time.monotonic()
        if now <= self._at:
            return False
        stack = self._stack()
        if not stack and self._starts_left and now <= self._at_most:
            # The interpreter started so slowly that the time of its first dump has not come.
            return False
        if not self._starts_left or not stack_dump.is_starting(stack):
            return True
        self._starts_left -= 1
        self._at += start_seconds(self._budget_seconds)
        return False


def _listen(
    child: subprocess.Popen[bytes],
    events_in: int,
    deadline: _Deadline,
    on_event: Callable[[Event], None],
    on_output: Callable[[bytes], None],
    is_over: Callable[[], bool],
    keeper: Keeper,
) -> bool:
    """Forward events and output until the child ends or `is_over`; return True if its time was up before that.

    Meanwhile the journal's `keeper` checks which files the script's programs write.
    """
    assert child.stdout is not None
    output = child.stdout.fileno()
    receiver = EventReader()
    with selectors.DefaultSelector() as selector:
        for descriptor in (events_in, output):
            selector.register(descriptor, selectors.EVENT_READ)
        while True:
            # After the child's end the rest in the pipes is read, but not until end of file, because workers that
            # outlive it for a moment have the other ends open.
            ended = child.poll() is not None
            ready = selector.select(0.0 if ended else _POLL_SECONDS)
            # Output first: what the script printed before its end must precede the event of the end.
            for key, _ in sorted(ready, key=lambda found: found[0].fd != output):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fd)
                elif key.fd == output:
                    on_output(data)
                else:
                    for event in receiver.feed(data):
                        deadline.note_event(event)
                        on_event(event)
            keeper.look_at(child.pid)
            if (ended and not ready) or is_over():
                return False
            if deadline.has_come():
                return True
