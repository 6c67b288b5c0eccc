"""What was measured of one pipeline, kept as JSON under `analysis/data/readings` so that a long run can go on later."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from analysis.measuring import Timed
from analysis.pipelines.pipeline import DATA
from plumb.search.measure import Chunk

_FOLDER = DATA / "readings"
PLUMB, PLUMB_UNCACHED, ORACLE = "plumb", "plumb, nothing stored", "the best of all"


@dataclass(frozen=True)
class Entry(Timed):
    """One peer: what it ran, the chunks of each turn, what it took, and what kept it from running.

    `difference` says in what its batches differ from those of torch's default; it is empty where they don't.
    """

    peer: str
    configuration: str = ""
    turns: list[list[Chunk]] = field(default_factory=list)
    tuning_seconds: float = 0.0
    memory_bytes: float = 0.0
    processes: int = 0
    difference: str = ""
    error: str = ""
    note: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Epochs:
    """Seconds of whole epochs of a training loop whose step takes `step_seconds`: of torch's best, and of plumb's.

    plumb's first one, which fills its store where it has one, is apart.
    """

    step_seconds: float
    torchs: str
    torchs_seconds: list[float]
    first_seconds: float
    plumbs_seconds: list[float]


@dataclass(frozen=True)
class Outcome:
    """One pipeline: its peers, and what limits all of them.

    `limits` are the samples per second that the host allows at most, measured in each turn: cores over pure CPU
    seconds, or what the source gives. `grid_seconds` is what measuring every configuration took.
    """

    name: str
    title: str
    bounded_by: str
    machine: str
    limits: list[float]
    grid_seconds: float
    entries: list[Entry]
    epochs: Epochs | None = None

    def entry(self, peer: str) -> Entry | None:
        """The entry of that peer, where it was measured."""
        return next((entry for entry in self.entries if entry.peer == peer and entry.is_measured), None)

    @property
    def oracle(self) -> Entry | None:
        """The fastest of all that run torch's loader or plumb's, and do the same work, under a name of its own.

        None where nothing ran.
        """
        ours = [entry for entry in self.entries if entry.is_measured and not entry.versions and not entry.difference]
        if not ours:
            return None
        return replace(max(ours, key=lambda entry: entry.rate.samples_per_second), peer=ORACLE)


def path_of(name: str, variant: str) -> Path:
    """Where the outcome of a pipeline is kept; a quick run's is apart from a full one's."""
    return _FOLDER / variant / f"{name}.json"


def kept(name: str, variant: str) -> Outcome | None:
    """An outcome of before; None where there is none, or one of another form."""
    try:
        return msgspec.json.decode(path_of(name, variant).read_bytes(), type=Outcome)
    except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def keep(outcome: Outcome, variant: str) -> None:
    """Writes an outcome, so that it is there whole or not at all."""
    path = path_of(outcome.name, variant)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")
    draft.write_bytes(msgspec.json.encode(outcome))
    draft.replace(path)
