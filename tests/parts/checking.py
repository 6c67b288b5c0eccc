"""A loop over a loader whose batches are checked, as an epoch iterator runs it, for the tests of the checks."""

from dataclasses import dataclass, field

from torch.utils.data import DataLoader

from plumb.core.config import Config, Rewrites
from plumb.runtime.checks.check_rate import CheckTimes
from plumb.runtime.checks.running_checks import CheckGuard, CheckHistory, Tally
from plumb.runtime.guards.guard import Verdict
from plumb.runtime.iterator_setup import IteratorSetup
from plumb.runtime.loader import NO_REWRITES

PLAIN = Config()


class Ordered:
    """Batches of indices, each shown to a guard when it is asked for."""

    def __init__(self, batches, guard):
        self.batches, self.guard = batches, guard

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for number, indices in enumerate(self.batches):
            yield self.guard.indices(number, list(indices))


@dataclass
class Loop:
    """Trains on `dataset` by `config`; `users` is what the script would have had. Counts epochs from 1."""

    dataset: object
    config: Config
    rewrites: Rewrites = NO_REWRITES
    users: Config = PLAIN
    rate: float | None = None
    collate_fn: object = None
    worker_init_fn: object = None
    is_planned: bool = True
    marked: list = field(default_factory=list)
    findings: list = field(default_factory=list)

    def __post_init__(self):
        self.guard = CheckGuard(
            CheckHistory(Tally("loader"), CheckTimes(self.rate)), self.users, None, self.marked.append
        )
        self.running = IteratorSetup(self.config, self.rewrites, is_planned=self.is_planned, is_checked=True)

    def loader(self, batches, config):
        arguments = {"collate_fn": self.collate_fn, "worker_init_fn": self.worker_init_fn}
        return DataLoader(self.dataset, batch_sampler=batches, **config.loader_arguments(), **arguments)

    def epoch(self, batches):
        """The batches of an epoch: those of the plan, and from a difference on those of the user's own."""
        delivered = []
        if not self.findings:
            loader = self.loader(Ordered(batches, self.guard), self.config)
            self.guard.epoch_begins(loader)
            for number, read in enumerate(self.running.start(loader, loader.__iter__)):
                batch, finding = self.guard.batch_read(number, batches[number], read)
                if finding is not None:
                    assert finding.verdict == Verdict.PLAIN
                    self.findings.append(finding.reason)
                    break
                delivered.append(batch)
                if number == len(batches) - 1:
                    return delivered
            # As the user's own configuration goes on in the middle of an epoch, without a seed for new workers.
            collate = loader.collate_fn
            return delivered + [
                collate([self.dataset[index] for index in indices]) for indices in batches[len(delivered) :]
            ]
        return list(self.loader(batches, self.users))
