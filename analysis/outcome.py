"""Measurements of one pipeline and all its peers."""

from dataclasses import dataclass, field, replace

from analysis.measuring import Timed
from plumb.tuning.measure.throughput import Chunk

PLUMB, PLUMB_UNCACHED, PLUMB_IN_ORDER = "plumb", "plumb, nothing stored", "plumb, order kept"
ORACLE = "the best of all"


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
    """Seconds of whole epochs of a training loop whose step takes `step_seconds`: with torch's best, and with plumb's.

    plumb chose for this loop. Its first epoch, which fills its store where it has one, is apart.
    """

    step_seconds: float
    torchs: str
    torchs_seconds: list[float]
    plumbs: str
    first_seconds: float
    plumbs_seconds: list[float]


@dataclass(frozen=True)
class Outcome:
    """One pipeline: its peers, and what limits all of them.

    `limits` are the samples per second that the host allows at most, measured in each turn: cores over pure CPU
    seconds, or what the source gives. `grid_seconds` is what measuring every configuration once would take, told from
    that of a part.
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
        """Return the entry of that peer, or None if it was not measured."""
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
