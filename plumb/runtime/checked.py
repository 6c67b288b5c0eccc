"""Batches on their way that are to be made a second time: marked where they are asked for, with a note to come back."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch.utils.data import get_worker_info

from plumb.profile.pinning import pinned
from plumb.runtime.cache import StoreSpec
from plumb.runtime.child_trial import Outcome
from plumb.runtime.generators import Generators, Kept
from plumb.runtime.plain_batches import Making


@dataclass(frozen=True)
class Marked:
    """The indices of a batch that is to be checked.

    Where `users_has_workers`, or where the main process reads, a process that reads the batch makes it plainly, too,
    within `seconds`.
    """

    indices: Any
    users_has_workers: bool
    seconds: float

    @property
    def is_made_plainly_here(self) -> bool:
        """Whether this process is one in which the user's own configuration would make the batch."""
        return self.users_has_workers or get_worker_info() is None


@dataclass(frozen=True)
class Note:
    """What a process that read a batch says of it.

    `states` are those of its generators before, `after` digests of those behind it. `plain` is the batch's plain making
    in a child of that process, where that was asked for, which took `seconds`. `rewrites` are those that took part, in
    words. Torch had so many `threads`. `makes_generators` says that a generator was made with the samples.
    """

    states: Kept
    plain: Outcome[list[Making]] | None
    seconds: float
    threads: int
    rewrites: tuple[str, ...] = ()
    store: StoreSpec | None = None
    after: dict[str, bytes] = field(default_factory=dict)
    makes_generators: bool = False
    process: int = field(default_factory=os.getpid)


@dataclass(frozen=True)
class CheckedSamples:
    """The samples of a marked batch, before they are collated, and the generators that collating may draw from."""

    samples: Any
    note: Note
    generators: Generators


@dataclass(frozen=True)
class CheckedBatch:
    """A batch that is to be checked, and the note about it."""

    batch: Any
    note: Note

    def with_batch(self, batch: Any) -> CheckedBatch:
        """Return the note with another batch: the same one finished, for example."""
        return replace(self, batch=batch)

    def pin_memory(self, *_: Any) -> CheckedBatch:
        """The same in page-locked memory; torch calls this where the user wants that."""
        return self.with_batch(pinned(self.batch))


@dataclass(frozen=True)
class CheckedCollate:
    """A collate function around the loader's that hands on notes; picklable if the loader's is."""

    collate_fn: Callable[[Any], Any]

    def __call__(self, samples: Any) -> Any:
        """Return the batch, with its note where the samples come with one."""
        if not isinstance(samples, CheckedSamples):
            return self.collate_fn(samples)
        batch, generators = self.collate_fn(samples.samples), samples.generators
        is_new = generators.look_again()
        return CheckedBatch(batch, replace(samples.note, after=generators.named_states(), makes_generators=is_new))
