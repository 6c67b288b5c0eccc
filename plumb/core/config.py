"""Configuration of a loader, and the rewrites of how its dataset makes samples."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class CacheChoice:
    """Choice of the operator whose output is stored, and of the place: `tier` is "memory" or "disk".

    `after` is the id of a `Cut`, `bytes` the store's capacity, `hit_ratio` the share of samples that fit into it.
    `folder` is the folder of the disk tier.
    """

    after: str
    tier: str
    bytes: int
    hit_ratio: float
    folder: str | None = None


@dataclass(frozen=True)
class CallStep:
    """One call on the path from a dataset's entry to an operator.

    `site` is the id of the call's site, `name` is the callee's name, and `position` is its place in a chain of steps,
    e.g. `transforms[2]`.
    """

    site: str
    name: str
    position: str = ""


CallPath = tuple[CallStep, ...]


@dataclass(frozen=True)
class Cut:
    """A call whose result depends on the index alone, so that it may be stored, or made ahead by other threads.

    `after` is the id of the operator that makes the result. The call is at the end of `way`; an empty way stands for
    the whole sample. The calls at `feeds` only make the cut's inputs: they are skipped if its result is known. `code`
    is a digest of the code on the ways, because in other code the ways lead elsewhere.
    """

    after: str
    way: CallPath
    feeds: tuple[CallPath, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class DeferredStep:
    """An operator on single samples that has the same effect on a stacked batch.

    `argument` is the place of the sample among its inputs: an index into the receiver (of a tensor's method) and the
    positional arguments, or a keyword.
    """

    operator: str
    way: CallPath
    argument: int | str


@dataclass(frozen=True)
class Deferral:
    """The last operators of a sample, in order, that may run behind collate instead.

    Their result is leaf number `leaf` of the sample, and of the batch. `code` is as in a `Cut`. If the user allows it,
    they run on `device`, and that leaf of the batch arrives there; None leaves it where it is.
    """

    steps: tuple[DeferredStep, ...]
    leaf: int
    code: str = ""
    device: str | None = None


@dataclass(frozen=True)
class Rewrites:
    """Possible changes of how a dataset makes its samples, each validated on the user's data.

    `threads_until` lists the cuts (ids) up to which threads may make several samples at once; "" stands for whole
    samples. `reasons` lists why something is not offered, and `summary` what was compared.
    """

    cuts: tuple[Cut, ...] = ()
    deferral: Deferral | None = None
    threads_until: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    summary: str = ""


WHOLE_BATCHES = ("whole batches",)
"""Value of `Config.deferred` for reading all rows of a batch at once."""

TIERS = {"memory": "memory", "disk": "a folder"}
"""Places of a store in words, by its tier."""

StartMethod = Literal["fork", "forkserver", "spawn"]


@dataclass(frozen=True)
class Config:
    """Configuration of a loader: torch's own arguments first, then those of plumb's runtime.

    `prefetch_factor` is None if and only if there are no workers, as torch requires. `fetch_until` is the id of the cut
    up to which the fetch threads work; None if they make whole samples. `start_method` is that of the workers; None for
    the script's choice, or Python's default.
    """

    num_workers: int = 0
    prefetch_factor: int | None = None
    persistent_workers: bool = False
    pin_memory: bool = False
    fetch_threads: int = 1
    worker_torch_threads: int = 1
    in_order: bool = True
    allocator_reuse: bool = False
    cache: CacheChoice | None = None
    deferred: tuple[str, ...] = ()
    fetch_until: str | None = None
    start_method: StartMethod | None = None

    @property
    def needs_runtime(self) -> bool:
        """True if torch's arguments alone can't express the configuration."""
        return self.rewrites_samples or self.worker_torch_threads > 1 or self.allocator_reuse

    @property
    def rewrites_samples(self) -> bool:
        """True if samples are made in another way than by calling the dataset once for each of them."""
        return self.fetch_threads > 1 or self.cache is not None or bool(self.deferred)

    def without_rewrites(self) -> Config:
        """Return the configuration that makes its samples as the script does."""
        return dataclasses.replace(self, fetch_threads=1, fetch_until=None, cache=None, deferred=())

    @property
    def reads_whole_batches(self) -> bool:
        """True if all rows of a batch are read at once, without collating."""
        return self.deferred == WHOLE_BATCHES

    def __str__(self) -> str:
        """Return the configuration in terms of torch's arguments, without those at torch's default."""
        parts = [f"num_workers={self.num_workers}"]
        if self.num_workers:
            parts.append(f"prefetch_factor={self.prefetch_factor}")
            parts += ["persistent_workers=True"] if self.persistent_workers else []
            parts += [f"multiprocessing_context={self.start_method!r}"] if self.start_method else []
        parts += ["pin_memory=True"] if self.pin_memory else []
        parts += [f"{self.worker_torch_threads} torch threads"] if self.worker_torch_threads > 1 else []
        parts += [] if self.in_order else ["in_order=False"]
        parts += [f"{self.fetch_threads} loading threads"] if self.fetch_threads > 1 else []
        parts += [f"{self.cache.after} stored in {TIERS[self.cache.tier]}"] if self.cache else []
        parts += ["whole batches at once"] if self.reads_whole_batches else []
        operators = () if self.reads_whole_batches else self.deferred
        parts += [f"{' and '.join(operators)} on whole batches"] if operators else []
        parts += ["batch memory used again"] if self.allocator_reuse else []
        return ", ".join(parts)

    @property
    def makes_ahead(self) -> bool:
        """True if a batch may hold values that were made before it was requested."""
        return self.num_workers > 0 or self.cache is not None

    @property
    def batches_in_flight(self) -> int:
        """Largest number of batches that are finished and not yet taken: torch's bound on prefetching."""
        return self.num_workers * (self.prefetch_factor or 0)

    def runs_like(self, other: Config) -> bool:
        """Return whether the configurations differ in nothing except `persistent_workers`."""
        lasting = self.persistent_workers == other.persistent_workers
        return self == (other if lasting else dataclasses.replace(other, persistent_workers=self.persistent_workers))

    def loader_arguments(self) -> dict[str, Any]:
        """Return the arguments of torch's `DataLoader` for this configuration, as far as torch can express it.

        >>> Config(num_workers=2, prefetch_factor=4).loader_arguments()["prefetch_factor"]
        4
        >>> "prefetch_factor" in Config().loader_arguments()
        False
        """
        arguments: dict[str, Any] = {"num_workers": self.num_workers, "pin_memory": self.pin_memory}
        if self.num_workers:
            arguments["prefetch_factor"] = self.prefetch_factor or 2
            arguments["persistent_workers"] = self.persistent_workers
            if self.start_method:
                arguments["multiprocessing_context"] = self.start_method
        if not self.in_order:
            arguments["in_order"] = False
        return arguments
