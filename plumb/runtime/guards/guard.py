"""Guards of a loader on another configuration than its user's: they check that batches are still the user's own.

An epoch iterator calls its guards when an epoch begins, before each batch, and with each batch that was read. A guard's
finding decides how the loader continues; see `Verdict`.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from torch.utils.data import DataLoader

from plumb.core.errors import one_line
from plumb.core.log import logger
from plumb.instrument.failure_report import place_of_report

_log = logger(__name__)

T = TypeVar("T")


class Verdict(enum.IntEnum):
    """Continuation of a loader after a finding; a greater value takes precedence.

    `RENEW`: workers, and their prefetched batches, are stale: new ones read everything that was not delivered yet.
    `PLAIN`: the user's own configuration reads everything that was not delivered yet, and all later epochs.
    """

    GO_ON = 0
    RENEW = 1
    PLAIN = 2


@dataclass(frozen=True)
class Finding:
    """Result of a guard; `reason` is one line for the user, in plain words, without a full stop."""

    verdict: Verdict
    reason: str


class Guard(Protocol):
    """Guard of one loader. All methods are called in the main process; None means that nothing was found.

    The `loader` passed to them has the parts of the user's, and the user's own configuration; it is remade for each
    epoch. The user's own loader, if it has workers, prefetches `num_workers * prefetch_factor` batches.
    """

    def epoch_begins(self, loader: DataLoader[Any]) -> Finding | None:
        """Check `loader` before anything is started for an epoch.

        An epoch begins at `iter` if the user's configuration has workers, otherwise at the first `next`.
        """

    def batch_wanted(self, loader: DataLoader[Any]) -> Finding | None:
        """Check `loader` when the loop requests a batch, before that batch is read or received.

        Changes since `batch_read` of the previous batch are the loop's.
        """

    def indices(self, number: int, indices: Any) -> Any:
        """Return what is sent for reading batch `number` of the epoch: `indices`, or a wrapper around them.

        May be called again for the same number, because stale prefetched batches are read again. Not called for batches
        that the user's own configuration reads.
        """

    def batch_read(self, number: int, indices: Any, batch: Any) -> tuple[Any, Finding | None]:
        """Return the batch to deliver. After a finding other than GO_ON the batch is dropped and read again.

        Also called for batches of the user's own configuration, which are delivered in any case. If batches are read in
        this process, changes since `batch_wanted` were made by reading.
        """


class IdleGuard:
    """Guard that finds nothing: a base class for guards that need only some of the methods."""

    def epoch_begins(self, loader: DataLoader[Any]) -> Finding | None:
        """Find nothing."""
        return None

    def batch_wanted(self, loader: DataLoader[Any]) -> Finding | None:
        """Find nothing."""
        return None

    def indices(self, number: int, indices: Any) -> Any:
        """Return the indices as they are."""
        return indices

    def batch_read(self, number: int, indices: Any, batch: Any) -> tuple[Any, Finding | None]:
        """Return the batch as it is."""
        return batch, None


class Guards:
    """Several guards as one: every guard is called, and the gravest finding counts.

    A guard that raises is dropped with one line on standard error. Without it, batches are no longer trusted, so the
    user's own configuration continues: the training never ends because of a guard.
    """

    def __init__(self, guards: Iterable[Guard] = ()) -> None:
        self._guards = list(guards)

    def add(self, guard: Guard) -> None:
        """Call `guard` too from now on."""
        self._guards.append(guard)

    def epoch_begins(self, loader: DataLoader[Any]) -> Finding | None:
        """Return the gravest finding of all guards."""
        return self._gravest("epoch_begins", loader)

    def batch_wanted(self, loader: DataLoader[Any]) -> Finding | None:
        """Return the gravest finding of all guards."""
        return self._gravest("batch_wanted", loader)

    def indices(self, number: int, indices: Any) -> Any:
        """Return the indices with the wrappers of all guards around them, the first guard's innermost.

        A guard that raises is dropped, and its finding is that of the next call that may have one.
        """
        for guard in list(self._guards):
            wrapped, failure = self._tried(guard, partial(guard.indices, number, indices))
            if failure is not None:
                self._guards.append(_Broken(failure))
            else:
                indices = wrapped
        return indices

    def batch_read(self, number: int, indices: Any, batch: Any) -> tuple[Any, Finding | None]:
        """Return the batch without the wrappers, and the gravest finding of all guards."""
        gravest: Finding | None = None
        for guard in reversed(list(self._guards)):
            read, failure = self._tried(guard, partial(guard.batch_read, number, indices, batch))
            if read is not None:
                batch, finding = read
                _note(guard, "batch_read", finding)
            else:
                finding = failure
            gravest = _graver(gravest, finding)
        return batch, gravest

    def _gravest(self, hook: str, loader: DataLoader[Any]) -> Finding | None:
        gravest: Finding | None = None
        for guard in list(self._guards):
            finding, failure = self._tried(guard, partial(getattr(guard, hook), loader))
            _note(guard, hook, finding)
            gravest = _graver(gravest, failure or finding)
        return gravest

    def _tried(self, guard: Guard, call: Callable[[], T]) -> tuple[T | None, Finding | None]:
        """Return what a guard returns, or the finding that it failed."""
        try:
            return call(), None
        except Exception as error:
            self._guards.remove(guard)
            _log.debug("a guard failed: %s", type(guard).__name__, exc_info=error)
            reason = f"a guard of plumb's own failed ({type(guard).__name__}: {one_line(error)})"
            print(f"plumb: {reason}; it is not asked again.{place_of_report(error)}", file=sys.stderr)
            return None, Finding(Verdict.PLAIN, reason)


class _Broken(IdleGuard):
    """Store of a failed guard's finding, for failures in a method that can't return one."""

    def __init__(self, finding: Finding) -> None:
        self._finding = finding

    def batch_wanted(self, loader: DataLoader[Any]) -> Finding | None:
        """Return the finding."""
        return self._finding

    def batch_read(self, number: int, indices: Any, batch: Any) -> tuple[Any, Finding | None]:
        """Return the batch with the finding."""
        return batch, self._finding


def _note(guard: Guard, hook: str, finding: Finding | None) -> None:
    if finding is not None:
        _log.debug("%s.%s: %s: %s", type(guard).__name__, hook, finding.verdict.name, finding.reason)


def _graver(one: Finding | None, other: Finding | None) -> Finding | None:
    if one is None or other is None:
        return one or other
    return other if other.verdict > one.verdict else one
