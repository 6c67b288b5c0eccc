"""Events that the script's process sends to its parent, as one JSON line each."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from plumb.core.plan import LoaderResult, Trial
from plumb.core.printable import to_json


class LoaderFound(msgspec.Struct, frozen=True, tag=True):
    """The script has constructed a loader."""

    name: str
    site: str
    dataset: str


class LoaderIterated(msgspec.Struct, frozen=True, tag=True):
    """The script iterates a loader for the first time, `seconds` after it was started."""

    name: str
    site: str
    seconds: float


class TuningStarted(msgspec.Struct, frozen=True, tag=True):
    """A loader's tuning begins, `seconds` after the script was started."""

    name: str
    site: str
    seconds: float


class Phase(msgspec.Struct, frozen=True, tag=True):
    """Present activity, in words for a progress line."""

    text: str


class TrialDone(msgspec.Struct, frozen=True, tag=True):
    """A configuration was tried.

    `comparable` is equal for trials whose rates may be compared, also across runs; empty for those that every run
    repeats.
    """

    loader: str
    trial: Trial
    comparable: str = ""


class LoaderDone(msgspec.Struct, frozen=True, tag=True):
    """A loader's tuning is done."""

    plan: LoaderResult


class Traced(msgspec.Struct, frozen=True, tag=True):
    """A loader's pipeline, as `networkx.node_link_data`, and its profile on a GPU."""

    name: str
    site: str
    graph: dict[str, Any]
    device: dict[str, Any]


class Warned(msgspec.Struct, frozen=True, tag=True):
    """A line for the user; `is_failure` says that a loader could not be tuned because of it."""

    text: str
    is_failure: bool = False


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The tuning can't go on, through no fault of the script; `text` is one line that says what to do."""

    text: str
    exit_code: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The script was ended by plumb, or ended by itself; no event follows.

    `had_children` says that the script started processes and waited for them.
    """

    by_plumb: bool
    had_children: bool = False


Event = (
    LoaderFound | LoaderIterated | TuningStarted | Phase | TrialDone | LoaderDone | Traced | Warned | Failed | Ended
)  # fmt: skip

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


class EventWriter:
    """Writer of events to a file descriptor; does nothing once the pipe has no reader."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def __call__(self, event: Event) -> None:
        """Write one event as a whole; do nothing in a forked process, whose events would mix with this one's."""
        if os.getpid() != self._owner:
            return
        line = memoryview(to_json(event) + b"\n")
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except BrokenPipeError:
                pass


class EventReader:
    """Parser of the bytes read from a pipe, however they were split."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield _decoder.decode(line)
