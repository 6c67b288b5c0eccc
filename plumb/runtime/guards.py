"""Guards of a loader that runs on another configuration than its user's: is a delivered batch still the user's own?

An epoch iterator calls its guards when an epoch begins, before each batch, and with each batch that was read. What a
guard finds decides how the loader goes on; see `Verdict`.
"""

from __future__ import annotations

import enum
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from torch.utils.data import DataLoader

from plumb.errors import one_line
from plumb.failures import place_of_report

T = TypeVar("T")


class Verdict(enum.IntEnum):
    """How a loader goes on after a finding; the greater value is the graver one.

    `RENEW`: workers, and what they have read ahead, are stale: new ones read everything that was not delivered yet.
    `PLAIN`: the user's own configuration reads everything that was not delivered yet, and all later epochs.
    """

    GO_ON = 0
    RENEW = 1
    PLAIN = 2


@dataclass(frozen=True)
class Finding:
    """What a guard has found; `reason` is one line for the user, in plain words, without a full stop."""

    verdict: Verdict
    reason: str


class Guard(Protocol):
    """Looks after one loader. All methods are called in the main process; None stands for nothing found.

    The `loader` that they are given has the parts of the user's, and the user's own configuration; it is made anew for
    each epoch. The user's own loader, where it has workers, prefetches `num_workers * prefetch_factor` batches.
    """

    def epoch_begins(self, loader: DataLoader[Any]) -> Finding | None:
        """Look at `loader` before anything is started for an epoch.

        An epoch begins at `iter` where the user's configuration has workers, and else at the first `next`.
        """

    def batch_wanted(self, loader: DataLoader[Any]) -> Finding | None:
        """Look at `loader` when the loop asks for a batch, before that batch is read or received.

        What has changed since `batch_read` of the batch before, the loop has changed.
        """

    def indices(self, number: int, indices: Any) -> Any:
        """Return what is sent to be read for batch `number` of the epoch: `indices`, or a wrapper around them.

        May be called again for the same number: what was read ahead and is stale is read once more. Not called for
        batches that the user's own configuration reads.
        """

    def batch_read(self, number: int, indices: Any, batch: Any) -> tuple[Any, Finding | None]:
        """Return the batch to deliver. With a finding other than GO_ON the batch is dropped and read again.

        Called for batches of the user's own configuration too, which are delivered in any case. Where batches are read
        in this process, what has changed since `batch_wanted` was changed by reading.
        """


class IdleGuard:
    """A guard that finds nothing: a base class for guards that need some of the methods only."""

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

    A guard that raises is dropped with one line on standard error. What is no longer guarded is not trusted either, so
    the user's own configuration goes on: the training never ends because of a guard.
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
            else:
                finding = failure
            gravest = _graver(gravest, finding)
        return batch, gravest

    def _gravest(self, hook: str, loader: DataLoader[Any]) -> Finding | None:
        gravest: Finding | None = None
        for guard in list(self._guards):
            finding, failure = self._tried(guard, partial(getattr(guard, hook), loader))
            gravest = _graver(gravest, failure or finding)
        return gravest

    def _tried(self, guard: Guard, call: Callable[[], T]) -> tuple[T | None, Finding | None]:
        """Return what a guard returns, or the finding that it failed."""
        try:
            return call(), None
        except Exception as error:
            self._guards.remove(guard)
            if os.environ.get("PLUMB_DEBUG"):
                traceback.print_exception(error)
            reason = f"a guard of plumb's own failed ({type(guard).__name__}: {one_line(error)})"
            print(f"plumb: {reason}; it is not asked again.{place_of_report(error)}", file=sys.stderr)
            return None, Finding(Verdict.PLAIN, reason)


class _Broken(IdleGuard):
    """Keeps the finding of a guard that failed where no finding can be returned."""

    def __init__(self, finding: Finding) -> None:
        self._finding = finding

    def batch_wanted(self, loader: DataLoader[Any]) -> Finding | None:
        """Return the finding."""
        return self._finding

    def batch_read(self, number: int, indices: Any, batch: Any) -> tuple[Any, Finding | None]:
        """Return the batch with the finding."""
        return batch, self._finding


def _graver(one: Finding | None, other: Finding | None) -> Finding | None:
    if one is None or other is None:
        return one or other
    return other if other.verdict > one.verdict else one
