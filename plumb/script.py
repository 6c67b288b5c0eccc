"""Runs a user's script in a child process under plumb: starts it, listens to it, and ends it safely.

The child leads a process group of its own. Its output is passed on as it comes; its events arrive on a pipe.
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

from plumb import interpreter, stacks, standard_streams
from plumb.errors import CommandError
from plumb.events import Event, LoaderIterated, Receiver, TuningStarted, Warned
from plumb.journal.keeping import Keeper
from plumb.journal.outcome import FilesOutcome
from plumb.orders import Orders, TuneOrders
from plumb.overtime import grace_seconds
from plumb.processes import end_marked, end_trees
from plumb.runtime.store_folder import disk_root, remove_abandoned
from plumb.signals import ended_by_signals, signals_held_back

# A tuning that has spent its budget may still be about to start workers, which may take as long as the script did to
# come to its first loader.
_GRACE_STARTS = 2.0
_POLL_SECONDS = 0.1
_IMPORT_SECONDS = 15.0
# Imports from a slow disk, and ranks that wait for each other, may take several times as long as any other start.
_STARTS_AT_MOST = 4
# A rank that takes part in another one's tuning is there from that one's start to its end.
_BUDGETS_OF_OTHERS = 3
# It is told so when the tuning is over, and ends at once.
_OTHERS_SECONDS = 10.0


@dataclass(frozen=True)
class Outcome:
    """How the child ended: its exit code (negative for a signal), or that plumb ended it because time was up.

    `stack` is where the script was when time was up, from the innermost call outwards, one line each.
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
) -> Outcome:
    """Runs the script with a tuning session inside, until it ends or its time is up, and puts its files back.

    A script that takes part in the tuning of another rank has `is_over`, which says when it is not needed any more.
    KeyboardInterrupt, and any other exception of the callbacks, ends the child with all its workers and passes on; a
    signal that ends this process does so afterwards. However it ends, `on_files` is told what became of the script's
    files; with `clean`, what the script made is removed.
    """
    assert orders.tune is not None
    standard_streams.open_missing((0, 1, 2))
    budget = orders.tune.budget_seconds * (_BUDGETS_OF_OTHERS if is_over else 1)
    events_in, events_out = os.pipe()
    # Named as Python names them: the path of a socket may have no more than about a hundred characters. Workers that
    # outlive the child by a moment may still write to it.
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
        lines = stacks.calls(_read_all(stack.fileno())) if timed_out else ()
        return Outcome(child.returncode, timed_out, time.monotonic() - started, lines)


def _own_files(orders: TuneOrders) -> list[str]:
    """Files and folders that plumb itself writes in the script's process."""
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
    """What a file holds; the child, which writes on where it had stopped, has the same descriptor."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


def start_seconds(budget_seconds: float) -> float:
    """How long a script may take to come to its first loader: the budget, but never less than imports need.

    It gets so long again where it is still in its imports then, or waits for other ranks, `_STARTS_AT_MOST` times in
    all.
    """
    return max(budget_seconds, _IMPORT_SECONDS)


def replace_by(orders: Orders, arguments: list[str]) -> NoReturn:
    """Turns this process into the script, so that signals, terminal and exit code are the script's own."""
    command = _command(orders, arguments)
    sys.stdout.flush()
    os.execv(command[0], command)


def _command(orders: Orders, arguments: list[str]) -> list[str]:
    options = interpreter.options(interactive=orders.tune is None)
    return [sys.executable, *options, "-m", "plumb.child", orders.to_argument(), *arguments]


class _Deadline:
    """When a script's time is up.

    A loader must be iterated within `start_seconds`, or later where `stack`, the dumps of where the script was, shows
    that it was still starting; from then on there is the budget to find out what trains, and the budget again to tune,
    each time with some grace.
    """

    def __init__(self, budget_seconds: float, stack: Callable[[], str]) -> None:
        self._budget_seconds = budget_seconds
        self._stack = stack
        self._begun = time.monotonic()
        self._grace_seconds = 0.0
        self._starts_left = _STARTS_AT_MOST - 1
        self._at = self._begun + start_seconds(budget_seconds)
        self._at_most = self._begun + _STARTS_AT_MOST * start_seconds(budget_seconds)

    def heard(self, event: Event) -> None:
        """Moves it on where the event says that the script has come further."""
        if isinstance(event, (LoaderIterated, TuningStarted)):
            now = time.monotonic()
            self._grace_seconds = self._grace_seconds or max(
                grace_seconds(self._budget_seconds), _GRACE_STARTS * (now - self._begun)
            )
            self._starts_left = 0
            self._at = now + self._budget_seconds + self._grace_seconds

    def has_come(self) -> bool:
        """Whether it is now, and the script is not to get as long again for its start."""
        now = time.monotonic()
        if now <= self._at:
            return False
        stack = self._stack()
        if not stack and self._starts_left and now <= self._at_most:
            # Its interpreter was so slow to start that the time of its first dump has not come.
            return False
        if not self._starts_left or not stacks.is_starting(stack):
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
    """Passes on events and output until the child ends, or it is over; True where its time was up before that.

    Meanwhile the journal's `keeper` sees which files the script's programs write.
    """
    assert child.stdout is not None
    output = child.stdout.fileno()
    receiver = Receiver()
    with selectors.DefaultSelector() as selector:
        for descriptor in (events_in, output):
            selector.register(descriptor, selectors.EVENT_READ)
        while True:
            # Once the child has ended, what is left in the pipes is read, but no end of file is waited for: workers
            # that outlive it by a moment hold the other ends.
            ended = child.poll() is not None
            ready = selector.select(0.0 if ended else _POLL_SECONDS)
            # Output first: what the script printed before it ended comes before the news that it did.
            for key, _ in sorted(ready, key=lambda found: found[0].fd != output):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fd)
                elif key.fd == output:
                    on_output(data)
                else:
                    for event in receiver.feed(data):
                        deadline.heard(event)
                        on_event(event)
            keeper.look_at(child.pid)
            if (ended and not ready) or is_over():
                return False
            if deadline.has_come():
                return True
