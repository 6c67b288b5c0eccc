"""The dataclasses that cross rooms, and the plan file.

Rates are samples per second. A plan file is data only: reading one never runs code.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

VERSION = 1


class PlanError(Exception):
    """A plan that can't be used. The message is one line and says what to do."""


@dataclass(frozen=True)
class CacheChoice:
    """Which operator's output is stored, and where: `tier` is "memory" or "disk".

    `after` is the id of a `Cut`, `bytes` what the store may hold, `hit_ratio` the share of samples that fit into it.
    `folder` is where the disk tier is.
    """

    after: str
    tier: str
    bytes: int
    hit_ratio: float
    folder: str | None = None


@dataclass(frozen=True)
class Step:
    """One call on the way from a dataset's entry to an operator.

    `site` is the id of the call's site, `name` that of its callee, and `position` says where a chain of steps keeps the
    callee, e.g. `transforms[2]`.
    """

    site: str
    name: str
    position: str = ""


Way = tuple[Step, ...]


@dataclass(frozen=True)
class Cut:
    """A call whose result depends on the index alone, so that it may be stored, or made ahead by other threads.

    `after` is the id of the operator whose output it is. The call is at the end of `way`; an empty way stands for the
    whole sample. The calls at `feeds` have no other purpose than to make what the cut takes: where its result is known,
    they are skipped. `code` is a digest of the code on the ways: with other code, the ways lead elsewhere.
    """

    after: str
    way: Way
    feeds: tuple[Way, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class DeferredStep:
    """An operator of single samples that does the same on a stacked batch.

    `argument` is what of it is the sample: the place among the receiver (of a method of a tensor) and the positional
    arguments, or a keyword.
    """

    operator: str
    way: Way
    argument: int | str


@dataclass(frozen=True)
class Deferral:
    """The last operators of a sample, in their order, that may run behind collate instead.

    Their result is the `leaf`-th leaf of the sample, and of the batch. `code` as in a `Cut`. Where the user allowed it,
    they run on `device`, and that leaf of the batch arrives there; None for where it lay.
    """

    steps: tuple[DeferredStep, ...]
    leaf: int
    code: str = ""
    device: str | None = None


@dataclass(frozen=True)
class Rewrites:
    """What may be changed in the way in which a dataset makes its samples: each was validated on the user's data.

    `threads_until` lists where threads may make several samples at once: the ids of cuts up to which they may, and ""
    where they may make whole samples. `reasons` says why something is not offered, and `summary` what was compared.
    """

    cuts: tuple[Cut, ...] = ()
    deferral: Deferral | None = None
    threads_until: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    summary: str = ""


StartMethod = Literal["fork", "forkserver", "spawn"]


@dataclass(frozen=True)
class Config:
    """One way to run a loader: torch's own arguments first, then what plumb's runtime adds.

    `prefetch_factor` is None exactly where there are no workers, as torch wants it. `fetch_until` is the id of the cut
    up to which the fetch threads work, None where they make whole samples. `start_method` is how workers are started,
    None for the way that the script has chosen, or Python by itself.
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
        """Whether torch's arguments alone can't say it."""
        threads = self.fetch_threads > 1 or self.worker_torch_threads > 1
        return threads or self.cache is not None or bool(self.deferred) or self.allocator_reuse

    def __str__(self) -> str:
        """The configuration in the words of torch's arguments, without what is at torch's default."""
        parts = [f"num_workers={self.num_workers}"]
        if self.num_workers:
            parts.append(f"prefetch_factor={self.prefetch_factor}")
            parts += ["persistent_workers=True"] if self.persistent_workers else []
            parts += [f"multiprocessing_context={self.start_method!r}"] if self.start_method else []
        parts += ["pin_memory=True"] if self.pin_memory else []
        parts += [f"{self.worker_torch_threads} torch threads"] if self.worker_torch_threads > 1 else []
        parts += [] if self.in_order else ["in_order=False"]
        parts += [f"{self.fetch_threads} fetch threads"] if self.fetch_threads > 1 else []
        parts += [f"cache in {self.cache.tier} after {self.cache.after}"] if self.cache else []
        parts += [f"{' and '.join(self.deferred)} on batches"] if self.deferred else []
        parts += ["reused memory"] if self.allocator_reuse else []
        return ", ".join(parts)

    @property
    def batches_in_flight(self) -> int:
        """Batches that may be finished and not yet taken: torch's bound on prefetching."""
        return self.num_workers * (self.prefetch_factor or 0)

    def loader_arguments(self) -> dict[str, Any]:
        """The arguments of torch's `DataLoader` that say the same as this configuration, as far as torch can.

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


@dataclass(frozen=True)
class Rate:
    """A measured throughput, and the interval that holds its true value with 95 % confidence."""

    samples_per_second: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """A configuration and what a real loader delivered with it, start of workers spread over a real epoch."""

    config: Config
    samples_per_second: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Prediction:
    """What the model expects of a configuration, and why.

    `bounds` holds each resource's limit in samples per second; the smallest is `samples_per_second`, and its
    resource is the `bottleneck`. `utilization` is each resource's share in use at that rate, from 0 to 1. `then` is
    what would bind next, with a larger bound; None where nothing else is known to bind.
    """

    samples_per_second: float
    bottleneck: str
    utilization: dict[str, float]
    bounds: dict[str, float] = field(default_factory=dict)
    then: str | None = None


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried for real, or the reason why it could not be.

    `predicted_bytes` and `measured_bytes` are memory beyond the script itself; None where it wasn't looked at.
    """

    config: Config
    predicted_samples_per_second: float | None
    samples_per_second: float | None
    interval: tuple[float, float] | None
    outcome: str
    predicted_bytes: float | None = None
    measured_bytes: float | None = None


@dataclass(frozen=True)
class StepShares:
    """Where the time between two batches of the training goes, as shares that add up to 1.

    `step` is the training step itself, without what it waits for other `ranks`. The rest waits for data: `read` while
    samples wait for storage or a network, `compute` while they are made, `transfer` while the main process takes
    batches over from workers.
    """

    step: float
    read: float
    compute: float
    transfer: float
    ranks: float = 0.0


@dataclass(frozen=True)
class EndToEnd:
    """What the user's own loop reached, side by side, and the share of its time that it waited for data.

    The shares are None where the step rate could not be measured. How much the loop waits is measured; what for is told
    by the model. Of several ranks, what steps wait for the others is measured, too.
    """

    baseline: float
    tuned: float
    baseline_interval: tuple[float, float]
    tuned_interval: tuple[float, float]
    baseline_waiting_share: float | None
    tuned_waiting_share: float | None
    baseline_shares: StepShares | None = None
    tuned_shares: StepShares | None = None
    baseline_ranks_share: float = 0.0
    tuned_ranks_share: float = 0.0


@dataclass(frozen=True)
class SampleCost:
    """What one sample costs in `__getitem__` and collate, and its share of the batch that comes out.

    `main_seconds` is what the main process spends on taking it over from a worker.
    """

    wall_seconds: float
    cpu_seconds: float
    wait_seconds: float
    main_seconds: float
    output_bytes: float
    output_tensors: float


@dataclass(frozen=True)
class TuningCost:
    """What finding the answer took: seconds, samples that were loaded, and CPU seconds of this process and workers."""

    seconds: float
    samples: float
    cpu_seconds: float


@dataclass(frozen=True)
class LoaderPlan:
    """The answer for one loader.

    `graph` is the traced pipeline as `networkx.node_link_data`, `device` what a GPU would do for it. `model` is what
    the model was told, so that `plumb predict` can ask it about other hosts (see `model/stored.py`). `library` is the
    package that makes the loader, where that is none of the user's own code.
    """

    name: str
    site: str
    dataset: str
    batch_size: int | None
    baseline: Measured
    tuned: Measured
    predicted: Prediction
    samples_per_batch: float = 1.0
    step_samples_per_second: float | None = None
    end_to_end: EndToEnd | None = None
    sample: SampleCost | None = None
    trials: tuple[Trial, ...] = ()
    rewrites: Rewrites = Rewrites()
    graph: dict[str, Any] | None = None
    device: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    cost: TuningCost | None = None
    model: dict[str, Any] | None = None
    library: str = ""

    @property
    def config(self) -> Config:
        """The configuration to use."""
        return self.tuned.config

    @property
    def expressible(self) -> Config | None:
        """The best measured configuration that torch's arguments can say, None where none is better than the user's.

        A part of a configuration may be worse than what the user had: workers without their fetch threads, for example.
        """
        if not self.config.needs_runtime:
            return self.config
        better = [
            (trial.samples_per_second, trial.config)
            for trial in self.trials
            if not trial.config.needs_runtime
            and trial.samples_per_second is not None
            and trial.interval is not None
            and trial.interval[0] > self.baseline.interval[1]
        ]
        return max(better, key=lambda pair: pair[0])[1] if better else None

    @property
    def gain(self) -> float:
        """The factor by which the tuned loader is faster than the baseline; 1 where nothing was changed."""
        return self.tuned.samples_per_second / self.baseline.samples_per_second

    @property
    def payback_steps(self) -> float | None:
        """After how many training steps at the new rate the seconds of the tuning are saved; None where never.

        Counted by the rates of the training loop where they are known, else by those of the loader.
        """
        if self.cost is None:
            return None
        loop = self.end_to_end
        before = loop.baseline if loop else self.baseline.samples_per_second
        after = loop.tuned if loop else self.tuned.samples_per_second
        saved_per_step = self.samples_per_batch * (1.0 / before - 1.0 / after)
        return self.cost.seconds / saved_per_step if saved_per_step > 0 else None


@dataclass(frozen=True)
class Plan:
    """What one tuning found, for all loaders of a script.

    `script` is empty where a loader was tuned from within Python. `made_for` is what of a dataset, a loader and a host
    must be the same for a plan that is kept for later runs.
    """

    script: str
    host: dict[str, Any]
    tuning_seconds: float
    startup_seconds: float
    loaders: tuple[LoaderPlan, ...]
    written_files: tuple[str, ...] = ()
    made_for: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION


def encode(plan: Plan) -> bytes:
    """The plan as JSON, indented for people."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n"


def decode(data: bytes) -> Plan:
    """The plan in `data`. Raises PlanError where it is damaged or of another version; unknown keys are ignored."""
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("version")
        if version != VERSION:
            raise PlanError(f"has version {version!r}; this plumb reads version {VERSION}. Tune again to replace it.")
        return msgspec.json.decode(data, type=Plan)
    except msgspec.MsgspecError as error:
        raise PlanError(f"is not a plan ({error}). Tune again to replace it.") from None


def read(path: Path) -> Plan:
    """The plan in the file at `path`. Raises PlanError, with the path in its message."""
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise PlanError(f"{path}: cannot be read ({error.strerror}). Make one with: plumb tune SCRIPT") from None
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None


def write(plan: Plan, path: Path) -> None:
    """Writes the plan so that a reader sees the old file or the new one, never a part. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(encode(plan))
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
