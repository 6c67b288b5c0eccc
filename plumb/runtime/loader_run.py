"""What the epochs of one loader have in common: configurations, who decides on them, guards, and workers."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Protocol

from plumb.config import Config, Rewrites
from plumb.runtime.checks import CheckGuard
from plumb.runtime.guards import Guards
from plumb.runtime.run_clock import RunClock
from plumb.runtime.running import Running
from plumb.runtime.segment import LoaderSegment
from plumb.runtime.state_guard import StateGuard


class Steering(Protocol):
    """Decides which configuration the epochs of a loader are to run on."""

    rewrites: Rewrites

    @property
    def wanted(self) -> Config:
        """The configuration to run on."""

    def failed(self, config: Config, reason: str) -> None:
        """Take note that `config` could not be run, and don't want it again."""

    def stay_plain(self, reason: str) -> None:
        """Take note that the user's own configuration reads everything from now on."""

    def renewed(self, reason: str) -> None:
        """Take note that workers are started again."""


@dataclass
class LoaderRun:
    """What the epochs of one loader have in common. Only the latest epoch, by its `turn`, is steered.

    `own` is the user's configuration. `kept` is the segment at work if its workers are to outlive the epoch, `running`
    what starts iterators with a store that outlives segments, if there is one. `is_plain` says that the user's own
    configuration reads everything, for good, and `reads_here` that the batch at hand is made in this process.
    `slowest_seconds` is the longest wait for a batch so far. `clock` measures the loop, if it is to be measured.
    """

    own: Config
    steering: Steering
    guards: Guards = field(default_factory=Guards)
    running: Running | None = None
    checks: CheckGuard | None = None
    kept: LoaderSegment | None = None
    turn: int = 0
    is_plain: bool = False
    reads_here: bool = False
    slowest_seconds: float = 0.0
    clock: RunClock | None = None

    def is_users(self, config: Config) -> bool:
        """Whether a configuration reads as the user's own does."""
        return config.runs_like(self.own)

    @property
    def wanted(self) -> Config:
        """The configuration to run on."""
        return self.own if self.is_plain else self.steering.wanted

    def stay_plain(self, reason: str) -> None:
        """Let the user's own configuration read everything from now on."""
        if not self.is_plain:
            self.is_plain = True
            self.steering.stay_plain(reason)


def state_guard(run: LoaderRun) -> StateGuard:
    """Return the guard of what the samples of a loader read."""
    # The run has the guard: if the guard had the run as well, workers would be left to the collector of cycles, which
    # ends their queues before torch can tell them to go.
    known = weakref.ref(run)

    def wanted() -> Config:
        run = known()
        return Config() if run is None else run.wanted

    def reads_here() -> bool:
        run = known()
        return run is not None and run.reads_here

    return StateGuard(run.own, wanted, reads_here)
