"""Several ranks of one launch under `plumb tune`: rank 0 tunes, the others take part until it is done.

A rank that takes part also runs the script, so that rank 0's training steps don't wait for it in vain. A file in the
user's cache folder signals the end of the tuning.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from plumb.core.errors import CommandError, StoreError
from plumb.core.events import Event, Failed
from plumb.host.host_files import HostFiles, whole
from plumb.host.user_folder import open_user_folder, user_folder
from plumb.journal.sharing import Together, remove_killed
from plumb.script import launcher
from plumb.tuning.child_orders import Orders

_FOLDER = "launches"
_DIGEST_LETTERS = 24
# Variables with the same values in all ranks of a launch, as torch's env:// initialisation needs them.
_BOOT = "/proc/sys/kernel/random/boot_id"
_IN_COMMON = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "TORCHELASTIC_RUN_ID")


@dataclass(frozen=True)
class Launch:
    """Rank of the process among `ranks` that train together, and the file that signals the end of their tuning."""

    rank: int
    ranks: int
    ended_file: str

    @property
    def tunes(self) -> bool:
        """True if this rank tunes for all."""
        return self.rank == 0


def launch_of(host: HostFiles) -> Launch | None:
    """Return the launch from torch's variables, as torchrun and accelerate set them; None for a single process.

    Raises CommandError for a launch on several hosts, because the signal of the end would not reach the others.
    """
    environ = host.environ
    rank, ranks = whole(environ.get("RANK")), whole(environ.get("WORLD_SIZE"))
    if rank is None or ranks is None or ranks < 2 or not environ.get("MASTER_ADDR"):
        return None
    if (whole(environ.get("LOCAL_WORLD_SIZE")) or ranks) < ranks:
        raise CommandError("tune on one host, with as many ranks as it has; the plan is then for all hosts", 2)
    # Launches on one host may use the same master, and several hosts may share a home directory.
    named = "\0".join([host.text(_BOOT) or "", *(environ.get(name, "") for name in _IN_COMMON)])
    digest = hashlib.sha256(named.encode(errors="surrogateescape")).hexdigest()
    return Launch(rank, ranks, str(user_folder() / _FOLDER / digest[:_DIGEST_LETTERS]))


class TuningDoneFlag:
    """Signal from the rank that tunes to the other ranks on its host that the tuning is over.

    Signals of earlier launches are ignored.
    """

    def __init__(self, file: str) -> None:
        self._file = Path(file)
        self._before = self._moment()

    def set(self) -> None:
        """Give the signal. If the folder can't be used, the others notice when the script's own connection ends."""
        with contextlib.suppress(OSError, StoreError):
            folder = open_user_folder(_FOLDER)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                file = os.open(self._file.name, flags, 0o600, dir_fd=folder)
                os.utime(file)
                os.close(file)
            finally:
                os.close(folder)

    def clear(self) -> None:
        """Remove the signal of an earlier launch."""
        with contextlib.suppress(OSError):
            self._file.unlink()

    def is_set(self) -> bool:
        """Return whether the signal was given since this object was made."""
        moment = self._moment()
        return moment is not None and moment != self._before

    def _moment(self) -> int | None:
        try:
            return self._file.stat().st_mtime_ns
        except OSError:
            return None


def forget_launches() -> None:
    """Remove the signals of launches of which no rank lives any more."""
    remove_killed(user_folder() / _FOLDER, lambda signal: signal.unlink(missing_ok=True))


@contextlib.contextmanager
def _attending(launch: Launch) -> Iterator[None]:
    """Be one of the launch's ranks; the last one whose context ends removes the signal, which nobody awaits then."""
    part = Together(launch.ended_file)
    ended = TuningDoneFlag(launch.ended_file)
    # Without the folder there is no signal, either.
    with contextlib.suppress(OSError, StoreError):
        os.close(open_user_folder(_FOLDER))
        part.enter(ended.clear)
    try:
        yield
    finally:
        if part.descriptor is not None:
            with contextlib.suppress(OSError):
                part.leave(0.0, ended.clear)
            part.close()


@contextlib.contextmanager
def signal_when_over(launch: Launch | None) -> Iterator[None]:
    """Signal the other ranks of a launch when the context ends, also if it fails; do nothing without a launch."""
    if launch is None:
        yield
        return
    with _attending(launch):
        ended = TuningDoneFlag(launch.ended_file)
        try:
            yield
        finally:
            ended.set()


def take_part(orders: Orders, arguments: list[str], launch: Launch) -> int:
    """Run the script until rank 0's tuning is over; return the script's own exit code if it ends before, else 0.

    Raises CommandError if plumb can't go on.
    """
    with _attending(launch):
        return _take_part(orders, arguments, launch)


def _take_part(orders: Orders, arguments: list[str], launch: Launch) -> int:
    assert orders.tune is not None
    ended = TuningDoneFlag(launch.ended_file)
    tune = msgspec.structs.replace(orders.tune, takes_part=True, launch_file=launch.ended_file)
    failures: list[Failed] = []

    def hear(event: Event) -> None:
        if isinstance(event, Failed):
            failures.append(event)

    print(f"plumb: rank {launch.rank} of {launch.ranks} takes part while rank 0 tunes", file=sys.stderr, flush=True)
    outcome = launcher.run_tuned(
        msgspec.structs.replace(orders, tune=tune), arguments, hear, _forward_output, is_over=ended.is_set
    )
    if ended.is_set():
        return 0
    if failures:
        raise CommandError(f"rank {launch.rank}: {failures[0].text}", failures[0].exit_code)
    if outcome.timed_out:
        raise CommandError(f"rank {launch.rank}: rank 0 was not heard of any more")
    return 128 - outcome.exit_code if outcome.exit_code < 0 else outcome.exit_code


def _forward_output(data: bytes) -> None:
    """Write the script's output to standard error, like that of the rank that tunes."""
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()
