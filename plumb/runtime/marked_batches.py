"""Batches in transit that will be made a second time: marked when requested, and returned with a note."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch.utils.data import get_worker_info

from plumb.host.forked_trial import ChildOutcome
from plumb.host.pinned_memory import pinned
from plumb.instrument.dataset_generators import Generators, GeneratorStates
from plumb.runtime.plain_batches import BatchVersion
from plumb.runtime.store.store import StoreSpec


@dataclass(frozen=True)
class CheckedIndices:
    """Indices of a batch to be checked.

    The process that reads the batch also makes it plainly, within `seconds`, if `users_has_workers` or if it is the
    main process.
    """

    indices: Any
    users_has_workers: bool
    seconds: float

    @property
    def is_made_plainly_here(self) -> bool:
        """True if the user's own configuration would make the batch in this process."""
        return self.users_has_workers or get_worker_info() is None


@dataclass(frozen=True)
class ReadRecord:
    """Record of the process that read a batch.

    `states` are those of its generators before the batch, `after` digests of those after it. `plain` is the batch's
    plain version, made in a child of that process if requested, which took `seconds`. `rewrites` are those that took
    part, in words. `threads` is torch's number of threads. `makes_generators`: a generator was made together with the
    samples.
    """

    states: GeneratorStates
    plain: ChildOutcome[list[BatchVersion]] | None
    seconds: float
    threads: int
    rewrites: tuple[str, ...] = ()
    store: StoreSpec | None = None
    after: dict[str, bytes] = field(default_factory=dict)
    makes_generators: bool = False
    process: int = field(default_factory=os.getpid)


@dataclass(frozen=True)
class CheckedSamples:
    """Samples of a marked batch before they are collated, and the generators that collating may draw from."""

    samples: Any
    note: ReadRecord
    generators: Generators


@dataclass(frozen=True)
class CheckedBatch:
    """A batch to be checked, and its note."""

    batch: Any
    note: ReadRecord

    def with_batch(self, batch: Any) -> CheckedBatch:
        """Return the note with another batch: for example, the finished one."""
        return replace(self, batch=batch)

    def pin_memory(self, *_: Any) -> CheckedBatch:
        """Copy the batch to page-locked memory; torch calls this if the user wants that."""
        return self.with_batch(pinned(self.batch))


@dataclass(frozen=True)
class CheckedCollate:
    """Collate function around the loader's that passes on notes; picklable if the loader's is."""

    collate_fn: Callable[[Any], Any]

    def __call__(self, samples: Any) -> Any:
        """Return the batch, with its note if the samples have one."""
        if not isinstance(samples, CheckedSamples):
            return self.collate_fn(samples)
        batch, generators = self.collate_fn(samples.samples), samples.generators
        is_new = generators.look_again()
        return CheckedBatch(batch, replace(samples.note, after=generators.named_states(), makes_generators=is_new))
