"""State shared by the epochs of one loader: configurations, steering, guards, and workers."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Protocol

from plumb.core.config import Config, Rewrites
from plumb.runtime.checks.running_checks import CheckGuard
from plumb.runtime.epoch.segment import LoaderSegment
from plumb.runtime.guards.guard import Guards
from plumb.runtime.guards.state_guard import StateGuard
from plumb.runtime.iterator_setup import IteratorSetup
from plumb.runtime.run_clock import RunClock


class Steering(Protocol):
    """Source of the configuration on which the epochs of a loader should run."""

    rewrites: Rewrites

    @property
    def wanted(self) -> Config:
        """Configuration to run on."""

    def failed(self, config: Config, reason: str) -> None:
        """Record that `config` could not be run, and don't want it again."""

    def stay_plain(self, reason: str) -> None:
        """Record that the user's own configuration reads everything from now on."""

    def renewed(self, reason: str) -> None:
        """Record that workers are started again."""


@dataclass
class LoaderRun:
    """State shared by the epochs of one loader. Only the latest epoch, by its `turn`, is steered.

    `own` is the user's configuration. `kept` is the present segment if its workers should outlive the epoch, `running`
    a starter of iterators whose store outlives segments, None without one. `is_plain`: the user's own configuration
    reads everything from now on. `reads_here`: the present batch is made in this process. `slowest_seconds` is the
    longest wait for a batch so far. `clock` measures the loop, None if it isn't measured. Workers that deliver nothing
    for `patience_seconds` are given up, for a minute if that is None.
    """

    own: Config
    steering: Steering
    guards: Guards = field(default_factory=Guards)
    running: IteratorSetup | None = None
    checks: CheckGuard | None = None
    kept: LoaderSegment | None = None
    turn: int = 0
    is_plain: bool = False
    reads_here: bool = False
    slowest_seconds: float = 0.0
    clock: RunClock | None = None
    patience_seconds: float | None = None

    def is_users(self, config: Config) -> bool:
        """Return whether a configuration reads as the user's own does."""
        return config.runs_like(self.own)

    @property
    def wanted(self) -> Config:
        """Configuration to run on."""
        return self.own if self.is_plain else self.steering.wanted

    def stay_plain(self, reason: str) -> None:
        """Read everything by the user's own configuration from now on."""
        if not self.is_plain:
            self.is_plain = True
            self.steering.stay_plain(reason)


def state_guard(run: LoaderRun) -> StateGuard:
    """Return the guard of everything that a loader's samples read."""
    # The run refers to the guard. If the guard referred to the run, workers would be left to the cycle collector, which
    # closes their queues before torch can ask them to exit.
    known = weakref.ref(run)

    def wanted() -> Config:
        run = known()
        return Config() if run is None else run.wanted

    def reads_here() -> bool:
        run = known()
        return run is not None and run.reads_here

    return StateGuard(run.own, wanted, reads_here)
