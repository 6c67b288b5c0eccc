"""What a tuning must not try with a loader, since its samples would not be the user's own any more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from plumb.config import Config
from plumb.offers import Offers
from plumb.runtime.loader import NO_REWRITES
from plumb.runtime.sample_effects import CHILD_SECONDS, sample_effects

# A child that makes a few samples may take so many times as long as one sample takes here.
_CHILD_SAMPLES = 20.0


@dataclass(frozen=True)
class Restraint:
    """What must not be tried, each with the reason, a note for the user, or None where it may be.

    `workers` is about workers of any kind, `forked` about those that are forked, `stores` about values that are kept,
    `threads` about samples made at the same time, `rewrites` about all that runs the code of samples in another way.
    `other_workers` is about workers in another number than the user's, or such that last longer.
    """

    workers: str | None = None
    forked: str | None = None
    stores: str | None = None
    threads: str | None = None
    rewrites: str | None = None
    other_workers: str | None = None

    def allowed(self, offers: Offers) -> Offers:
        """Return what is left of what was found for a loader."""
        if self.rewrites:
            return dataclasses.replace(offers, rewrites=NO_REWRITES, cuts=(), deferrals=(), threads=(), storage=None)
        if self.stores:
            offers = dataclasses.replace(offers, cuts=())
        return dataclasses.replace(offers, threads=(), storage=None) if self.threads else offers


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

    Where the user's own configuration has workers, samples are made ahead of time and from copies already; how many
    copies there are, and how long they last, may still decide on what comes.

    Args:
        loader: The loader to tune; its samples are tried in a forked child.
        own: The configuration that the script gave it.
        indices: Indices of a few samples.
        changed: The place of something that the loop changes while an epoch runs; empty for nothing.
        sample_seconds: What a sample takes in this process.
        child_seconds: How long a forked child that may hang is waited for, if samples don't take longer here.
    """
    if changed and not own.num_workers:
        return Restraint(workers=changed_by_loop(changed), stores=changed_by_loop(changed))
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


def changed_by_loop(place: str) -> str:
    """Return the note on something that the loop changes while an epoch runs."""
    return (
        f"no workers and no stores are used: your loop changes {place} while an epoch runs, and samples that are made "
        "ahead of time would not show it"
    )
