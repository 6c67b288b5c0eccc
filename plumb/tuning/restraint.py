"""Restrictions on what a tuning may try with a loader, because it would change the user's samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.instrument.sample_effects import CHILD_SECONDS, sample_effects
from plumb.instrument.worker_identity import why_worker_matters
from plumb.rewrites.find_rewrites import AvailableRewrites
from plumb.runtime.loader import NO_REWRITES

# A child that makes a few samples may take this multiple of one sample's time here.
_CHILD_SAMPLES = 20.0


@dataclass(frozen=True)
class Restraint:
    """Things that must not be tried, each with the reason as a note for the user; None if allowed.

    `workers` means workers of any kind, `forked` those that are forked, `stores` stored values, `threads` samples made
    at the same time, `rewrites` everything that runs the samples' code in another way. `other_workers` means workers in
    another number than the user's, or that persist unlike the user's.
    """

    workers: str | None = None
    forked: str | None = None
    stores: str | None = None
    threads: str | None = None
    rewrites: str | None = None
    other_workers: str | None = None

    def allowed(self, available: AvailableRewrites) -> AvailableRewrites:
        """Return the allowed ones among the rewrites that were found."""
        if self.rewrites:
            return dataclasses.replace(
                available, rewrites=NO_REWRITES, cuts=(), deferrals=(), threads=(), storage=None, source=None
            )
        if self.stores:
            available = dataclasses.replace(available, cuts=())
        return dataclasses.replace(available, threads=(), storage=None, source=None) if self.threads else available


FREE = Restraint()


def restraint_of(
    loader: DataLoader[Any],
    own: Config,
    indices: Iterable[Any],
    changed: str,
    sample_seconds: float = 0.0,
    child_seconds: float = CHILD_SECONDS,
) -> Restraint:
    """Return what must not be tried.

    If the user's own configuration has workers, samples are made ahead of time and from copies already; but the number
    of copies, and their lifetime, may still influence the samples.

    Args:
        loader: Loader to tune; its samples are tried in a forked child.
        own: Configuration that the script gave it.
        indices: Indices of a few samples.
        changed: Place that the loop changes during an epoch; empty if there is none.
        sample_seconds: Seconds per sample in this process.
        child_seconds: Longest wait for a forked child that may hang, if samples don't take longer here.
    """
    if changed and not own.num_workers:
        return Restraint(workers=changed_by_loop(changed), stores=changed_by_loop(changed))
    identity = why_worker_matters(loader)
    if identity:
        return _with_identity(identity, own)
    seconds = max(child_seconds, _CHILD_SAMPLES * sample_seconds)
    effects = sample_effects(loader, indices, seconds, skips_shared=own.num_workers > 0)
    if own.num_workers:
        why = effects.why_same_workers
        note = f"the number of workers stays yours: {why}" if why else None
        rewrites = note if effects.changed else None
        return Restraint(stores=rewrites, threads=note, rewrites=rewrites, other_workers=note)
    if effects.changed:
        note = f"no workers, threads or stores were tried: {effects.why_in_one_process}"
        return Restraint(workers=note, stores=note, threads=note, rewrites=note)
    if effects.draws:
        note = f"no workers or threads were tried: {effects.why_in_one_process}"
        return Restraint(workers=note, threads=note)
    if effects.is_part:
        note = f"no workers and no stores were tried: {effects.why_in_one_process}"
        return Restraint(workers=note, stores=note)
    return Restraint(forked=effects.why_not_forked)


def _with_identity(why: str, own: Config) -> Restraint:
    """Return what must not be tried with a loader whose samples may depend on the worker that makes them."""
    if not own.num_workers:
        note = f"no workers and no stores were tried: {why}, and your loader has no workers"
        return Restraint(workers=note, stores=note)
    # A stored value was made by one worker, and would be delivered in place of another's.
    note = f"the number of workers stays yours, and each sample is made by its own worker: {why}"
    return Restraint(stores=note, threads=note, rewrites=note, other_workers=note)


def changed_by_loop(place: str) -> str:
    """Return the note on a place that the loop changes during an epoch."""
    return (
        f"no workers and no stores are used: your loop changes {place} while an epoch runs, and samples that are made "
        "ahead of time would not show it"
    )
