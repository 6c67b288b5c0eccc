"""Several ranks of one launch under `plumb tune`: the first one tunes, the others take part until it is done.

A rank that takes part runs the script, too, so that the first one's training steps don't wait for it in vain. That the
tuning is over is told by a file in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from plumb import script
from plumb.errors import CommandError
from plumb.events import Event, Failed
from plumb.host.files import Host, whole
from plumb.orders import Orders
from plumb.runtime.store_folder import StoreError, open_user_folder, user_folder

_FOLDER = "launches"
_DIGEST_LETTERS, _DAY_SECONDS = 24, 86_400.0
# Ranks of one launch have these in common, as torch's env:// initialisation needs them.
_BOOT = "/proc/sys/kernel/random/boot_id"
_IN_COMMON = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "TORCHELASTIC_RUN_ID")


@dataclass(frozen=True)
class Launch:
    """A place among `ranks` processes that train together, and the file that tells when their tuning is over."""

    rank: int
    ranks: int
    ended_file: str

    @property
    def tunes(self) -> bool:
        """Whether this rank tunes for all."""
        return self.rank == 0


def launch_of(host: Host) -> Launch | None:
    """What torchrun, accelerate and others that set torch's variables say; None for a process on its own.

    Raises CommandError for a launch on several hosts: no word of the end would reach the others.
    """
    environ = host.environ
    rank, ranks = whole(environ.get("RANK")), whole(environ.get("WORLD_SIZE"))
    if rank is None or ranks is None or ranks < 2 or not environ.get("MASTER_ADDR"):
        return None
    if (whole(environ.get("LOCAL_WORLD_SIZE")) or ranks) < ranks:
        raise CommandError("tune on one host, with as many ranks as it has; the plan is then for all hosts", 2)
    # Every launch on one host may call its master alike, and several hosts may share a home.
    named = "\0".join([host.text(_BOOT) or "", *(environ.get(name, "") for name in _IN_COMMON)])
    digest = hashlib.sha256(named.encode(errors="surrogateescape")).hexdigest()
    return Launch(rank, ranks, str(user_folder() / _FOLDER / digest[:_DIGEST_LETTERS]))


class Ended:
    """The word that a tuning is over, from the rank that tunes to the others of the launch on its host.

    What an earlier launch left behind is not heard.
    """

    def __init__(self, file: str) -> None:
        self._file = Path(file)
        self._before = self._moment()

    def say(self) -> None:
        """Says it; where the folder can't be used, the others find out when the script's own connection ends."""
        with contextlib.suppress(OSError, StoreError):
            folder = open_user_folder(_FOLDER)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                file = os.open(self._file.name, flags, 0o600, dir_fd=folder)
                os.utime(file)
                os.close(file)
            finally:
                os.close(folder)

    def forget(self) -> None:
        """Takes back what an earlier launch has said, and what others did long ago."""
        with contextlib.suppress(OSError):
            for file in self._file.parent.iterdir():
                if file == self._file or time.time() - file.stat().st_mtime > _DAY_SECONDS:
                    file.unlink()

    def heard(self) -> bool:
        """Whether it was said since this object was made."""
        moment = self._moment()
        return moment is not None and moment != self._before

    def _moment(self) -> int | None:
        try:
            return self._file.stat().st_mtime_ns
        except OSError:
            return None


@contextlib.contextmanager
def said_when_over(launch: Launch | None) -> Iterator[None]:
    """Tells the other ranks of a launch when what is done inside is over, however it ends."""
    if launch is None:
        yield
        return
    ended = Ended(launch.ended_file)
    ended.forget()
    try:
        yield
    finally:
        ended.say()


def take_part(orders: Orders, arguments: list[str], launch: Launch) -> int:
    """Runs the script until the first rank's tuning is over. Returns the script's own exit code if it ends before.

    Raises CommandError where plumb can't go on.
    """
    assert orders.tune is not None
    ended = Ended(launch.ended_file)
    tune = msgspec.structs.replace(orders.tune, takes_part=True, launch_file=launch.ended_file)
    failures: list[Failed] = []

    def hear(event: Event) -> None:
        if isinstance(event, Failed):
            failures.append(event)

    print(f"plumb: rank {launch.rank} of {launch.ranks} takes part while rank 0 tunes", file=sys.stderr, flush=True)
    outcome = script.run_tuned(
        msgspec.structs.replace(orders, tune=tune), arguments, hear, _passed_on, is_over=ended.heard
    )
    if ended.heard():
        return 0
    if failures:
        raise CommandError(f"rank {launch.rank}: {failures[0].text}", failures[0].exit_code)
    if outcome.timed_out:
        raise CommandError(f"rank {launch.rank}: rank 0 was not heard of any more")
    return 128 - outcome.exit_code if outcome.exit_code < 0 else outcome.exit_code


def _passed_on(data: bytes) -> None:
    """What the script prints goes where that of the rank that tunes does."""
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()
