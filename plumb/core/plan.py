"""Results of a tuning, as dataclasses that all parts of plumb share, and the plan file.

Rates are samples per second. A plan file is data only: reading one never runs code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from plumb.core.atomic_file import replace_file
from plumb.core.config import Config, Rewrites
from plumb.core.construction import Construction
from plumb.core.errors import ExplainedError
from plumb.core.files_outcome import FilesOutcome
from plumb.core.identity import Identity
from plumb.core.printable import DAMAGED_JSON, to_json

VERSION = 1
_FILES_KNOWN = 1000


class PlanError(ExplainedError):
    """A plan can't be used."""


@dataclass(frozen=True)
class Rate:
    """A measured throughput, and the interval that contains its true value with 95 % confidence."""

    samples_per_second: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """A configuration and a real loader's rate with it, where the start of the workers is spread over a real epoch."""

    config: Config
    samples_per_second: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Prediction:
    """The model's prediction for a configuration, with reasons.

    `bounds` has each resource's limit in samples per second; the smallest is `samples_per_second`, and its resource is
    the `bottleneck`. `utilization` is each resource's share in use at that rate, from 0 to 1. `then` is the resource
    with the next larger bound; None if no other one is known to bind.
    """

    samples_per_second: float
    bottleneck: str
    utilization: dict[str, float]
    bounds: dict[str, float] = field(default_factory=dict)
    then: str | None = None


@dataclass(frozen=True)
class Trial:
    """A configuration that was really tried, or the reason why it could not be.

    `predicted_bytes` and `measured_bytes` are memory in addition to the script's own; None if it wasn't measured.
    `loop_samples_per_second` is the expected rate of a training on it: no more than the step takes, with the epoch that
    fills a store. It decides; None if it is unknown.
    """

    config: Config
    predicted_samples_per_second: float | None
    samples_per_second: float | None
    interval: tuple[float, float] | None
    outcome: str
    predicted_bytes: float | None = None
    measured_bytes: float | None = None
    loop_samples_per_second: float | None = None


@dataclass(frozen=True)
class StepShares:
    """Parts of the time between two batches of the training, as shares that add up to 1.

    `step` is the training step itself, without its waiting for other `ranks`. The rest waits for data: `read` for
    storage or a network, `compute` while samples are made, `transfer` while the main process receives batches from
    workers.
    """

    step: float
    read: float
    compute: float
    transfer: float
    ranks: float = 0.0


@dataclass(frozen=True)
class LoopGain:
    """Ratio of the user's loop's rate on the tuned configuration to the own one, from pairs of adjacent windows.

    `interval` contains the ratio with 95 % confidence, however often it was evaluated; None if there were too few
    `pairs`. `slower_chance` is the probability that the loop is slower by more than three percent.
    """

    ratio: float
    interval: tuple[float, float] | None
    pairs: int
    slower_chance: float


RejectionCause = Literal["not faster", "undecided", "failed", "epochs", "not kept up", "changing dataset"]


@dataclass(frozen=True)
class Rejection:
    """A configuration that was compared with the user's own one and not chosen, and the cause.

    `gain` is its gain in these pairs of windows, `in_loop` whether they were the user's loop's. With "undecided",
    others kept `others_cpus` busy meanwhile, and a budget of `enough_seconds` would probably settle it. With "epochs",
    it is faster only while an epoch runs. `detail` is the failure in words, or the place that the loop changes.
    """

    config: Config
    cause: RejectionCause
    gain: LoopGain | None = None
    in_loop: bool = True
    detail: str = ""
    others_cpus: float = 0.0
    enough_seconds: float | None = None


@dataclass(frozen=True)
class EndToEnd:
    """Rates of the user's own loop, measured interleaved, and the share of its time that it waited for data.

    The shares are None if the step rate could not be measured. The total waiting is measured, and split by the model.
    If there are several ranks, the steps' waiting for the others is measured, too.
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
    gain: LoopGain | None = None

    @property
    def ratio(self) -> float:
        """Ratio of the loop's rates: from pairs of windows if there were any, else of the two rates."""
        return self.gain.ratio if self.gain else self.tuned / self.baseline


@dataclass(frozen=True)
class PlainMeasured(Measured):
    """Best configuration of torch's own arguments alone; the user's own if none is better.

    `gain` is its gain in the user's loop, None if it was measured alone or changes nothing.
    """

    gain: LoopGain | None = None


@dataclass(frozen=True)
class SampleCost:
    """Cost of one sample in `__getitem__` and collate, and its share of the resulting batch.

    `main_seconds` is the time of the main process to receive it from a worker.
    """

    wall_seconds: float
    cpu_seconds: float
    wait_seconds: float
    main_seconds: float
    output_bytes: float
    output_tensors: float


@dataclass(frozen=True)
class TuningCost:
    """Cost of a tuning: seconds, samples loaded, and CPU seconds of this process and its workers."""

    seconds: float
    samples: float
    cpu_seconds: float


@dataclass(frozen=True)
class Claim:
    """Expected rates of whole epochs of `plumb run` by the clock, in samples per second.

    They include all costs of an epoch: the start of workers if an epoch starts them, filling a store in the `first`,
    checking the store's values in the `second`, and plumb's checks when an epoch begins. `own` is the rate on the
    user's own configuration. With `is_of_loop`, the rates are those of the user's loop, else those of the loader alone.
    """

    own: float
    first: float
    second: float
    later: float
    is_of_loop: bool = True

    @property
    def gain(self) -> float:
        """Ratio of later epochs' rate to the own one."""
        return self.later / self.own


@dataclass(frozen=True)
class Delivered:
    """Rates of the latest `plumb run` by the clock, in samples per second of the user's loop over whole epochs.

    `first` is the rate of the first epoch and `later` that of one after it, None if the run had none. `own` is the rate
    on the user's own configuration: measured by the run if `is_by_turns`, with the `ratio` of adjacent laps, else the
    plan's. `others_cpus` are the CPUs that other processes kept busy meanwhile. If the plan `is_slower`, the run
    continued as the script has it.
    """

    own: float
    first: float | None
    later: float | None
    ratio: float | None
    is_by_turns: bool
    others_cpus: float
    is_slower: bool


@dataclass(frozen=True)
class LoaderResult:
    """Result for one loader.

    `graph` is the traced pipeline as `networkx.node_link_data`, `device` its profile on a GPU. `model` has the model's
    inputs for `plumb predict` (see `model/serialization.py`). `library` is the package that makes the loader, empty for
    the user's own code. `identity` identifies the loader in the script; None in older plans, as is `plain`, the best of
    torch's own arguments alone. `unsafe` is the reason why the plan is not used any more after a run found a
    difference. `workers_compared` are the numbers of workers with which an iterable dataset delivered the same epoch as
    with the user's own. `undecided` is a sentence on a candidate that may be better if the tuning could not decide and
    so changed nothing. `claim` has the expected rates of epochs of `plumb run`, `delivered` those of the latest run.
    `rejected` are the configurations that were compared with the user's own one and not chosen.
    `construction` says how the script made the loader, for a patch of its source; None in older plans.
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
    rewrites: Rewrites = field(default_factory=Rewrites)
    graph: dict[str, Any] | None = None
    device: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    cost: TuningCost | None = None
    model: dict[str, Any] | None = None
    library: str = ""
    identity: Identity | None = None
    unsafe: str = ""
    undecided: str = ""
    workers_compared: tuple[int, ...] = ()
    plain: PlainMeasured | None = None
    claim: Claim | None = None
    delivered: Delivered | None = None
    rejected: tuple[Rejection, ...] = ()
    construction: Construction | None = None

    @property
    def shares_samples(self) -> bool:
        """True if an iterable dataset shares its samples among a number of workers other than the user's."""
        return bool(self.workers_compared) and self.config.num_workers != self.baseline.config.num_workers

    @property
    def is_identified(self) -> bool:
        """True if the code and flags of the loader's dataset are known, for a comparison when the plan is used."""
        return self.identity is not None and self.identity.facts is not None

    @property
    def config(self) -> Config:
        """Configuration to use."""
        return self.tuned.config

    @property
    def expressible(self) -> Config | None:
        """Best measured configuration in torch's own arguments (a part of another may be worse); None without one."""
        if not self.config.needs_runtime:
            return self.config
        if self.plain is not None:
            return None if self.plain.config == self.baseline.config else self.plain.config
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
        """Ratio of the tuned loader's rate to the baseline's; 1 if nothing was changed."""
        return self.tuned.samples_per_second / self.baseline.samples_per_second

    @property
    def plain_gain(self) -> float | None:
        """Ratio of the rate with torch's own arguments alone to the baseline's, in the loop if known.

        None if they are no better than the user's own, and in older plans.
        """
        if self.plain is None or self.plain.config == self.baseline.config:
            return None
        if self.plain.gain is not None:
            return self.plain.gain.ratio
        return self.plain.samples_per_second / self.baseline.samples_per_second

    @property
    def rest_gain(self) -> float | None:
        """Ratio of the tuned configuration's rate to that with torch's own arguments alone, by the same measure."""
        if self.plain is None or self.plain_gain is None:
            return None
        if self.plain.gain is not None and self.end_to_end is not None:
            return self.end_to_end.ratio / self.plain.gain.ratio
        return self.tuned.samples_per_second / self.plain.samples_per_second

    @property
    def payback_steps(self) -> float | None:
        """Training steps after which the tuning has saved its seconds, by the loop's rates if known; None if never."""
        if self.cost is None:
            return None
        loop = self.end_to_end
        before = loop.baseline if loop else self.baseline.samples_per_second
        after = loop.tuned if loop else self.tuned.samples_per_second
        saved_per_step = self.samples_per_batch * (1.0 / before - 1.0 / after)
        return self.cost.seconds / saved_per_step if saved_per_step > 0 else None


@dataclass(frozen=True)
class Plan:
    """Result of one tuning, for all loaders of a script.

    `script` is empty if a loader was tuned from within Python, and a module's name if `is_module`. `made_for` has the
    properties of a dataset, a loader and a host that must be the same for a stored plan to be used. `written_files` are
    the files that the script wrote while it was tuned, and `files` says what was done with each.
    """

    script: str
    host: dict[str, Any]
    tuning_seconds: float
    startup_seconds: float
    loaders: tuple[LoaderResult, ...]
    written_files: tuple[str, ...] = ()
    files: FilesOutcome | None = None
    made_for: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION
    is_module: bool = False


def encode(plan: Plan) -> bytes:
    """Return the plan as JSON, indented for people."""
    return msgspec.json.format(to_json(plan), indent=2) + b"\n"


def decode(data: bytes) -> Plan:
    """Return the plan in `data`; unknown keys are ignored. Raise PlanError if it is damaged or of another version."""
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("version")
        if version != VERSION:
            raise PlanError(f"has version {version!r}; this plumb reads version {VERSION}. Tune again to replace it.")
        return msgspec.json.decode(data, type=Plan)
    except DAMAGED_JSON as error:
        raise PlanError(f"is not a plan ({error}). Tune again to replace it.") from None


def read(path: Path) -> Plan:
    """Return the plan in the file at `path`. Raise PlanError, with the path in its message, if that fails."""
    try:
        found = decode(path.read_bytes())
        _note_file(found, path)
        return found
    except OSError as error:
        raise PlanError(f"{path}: cannot be read ({error.strerror}). Make one with: plumb tune SCRIPT") from None
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None


def write(plan: Plan, path: Path) -> None:
    """Write the plan atomically: a reader sees the old file or the new one, never a part. May raise OSError."""
    replace_file(path, encode(plan))
    _note_file(plan, path)


# Files that entries were read from or written to in this process, with the entries' numbers, the latest last.
_files: list[tuple[LoaderResult, Path, int]] = []


def _note_file(plan: Plan, path: Path) -> None:
    _files.extend((entry, path.absolute(), number) for number, entry in enumerate(plan.loaders))
    del _files[:-_FILES_KNOWN]


def files_of(entry: LoaderResult) -> list[tuple[Path, int]]:
    """Return the files known to this process that contain a loader's entry, and its number in each."""
    return list({path: (path, number) for known, path, number in _files if known is entry}.values())
