"""What the tests of live tuning share: datasets, and a pilot that follows a timetable instead of measurements."""

import time

import torch
from torch.utils.data import Dataset, Sampler

from plumb.runtime.loader import NO_REWRITES
from plumb.tuning.live.loader_state import tuning_of


class Squares(Dataset):
    """The same value for the same index, whoever asks for it; some indices raise."""

    def __init__(self, length=40, bad=(), seconds=0.0):
        self.length, self.bad, self.seconds = length, frozenset(bad), seconds

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if self.seconds:
            time.sleep(self.seconds)
        if index in self.bad:
            raise LookupError(f"no sample {index}")
        return torch.tensor([index, index * index])


class Eager(Sampler):
    """Draws its order from torch's global generator when it is asked, as many samplers of users do."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(torch.randperm(self.length).tolist())


class Lazy(Eager):
    """Draws each index from the global generator when it comes to it."""

    def __iter__(self):
        for _ in range(self.length):
            yield int(torch.randint(self.length, ()))


class Unsized(Sampler):
    """Doesn't say how long it is."""

    def __init__(self, length):
        self.length = length

    def __iter__(self):
        return iter(torch.randperm(self.length).tolist())


class Timetable:
    """A pilot that wants the configurations of `plan`, each from so many of the loop's batches on."""

    is_settled = True
    rewrites = NO_REWRITES

    def __init__(self, own, plan=()):
        self.wanted, self.trials, self.ran, self.failures, self.renewals = own, [], [], [], []
        self._plan = sorted(plan, key=lambda step: step[0])
        self._delivered = 0
        self._want()

    def begin(self, loader, epoch_batches):
        pass

    def ends_span(self, now, workers):
        return False

    def let_go(self):
        pass

    def note(self, delivery, batch, indices):
        self._delivered += 1
        if not self.ran or self.ran[-1] != delivery.config:
            self.ran.append(delivery.config)
        self._want()

    def failed(self, config, reason):
        self.failures.append((config, reason))
        self.wanted = self.ran[0] if self.ran else self.wanted

    def stay_plain(self, reason):
        self.failures.append(("plain", reason))

    def renewed(self, reason):
        self.renewals.append(reason)

    def _want(self):
        while self._plan and self._plan[0][0] <= self._delivered:
            self.wanted = self._plan.pop(0)[1]


def follow(loader, plan):
    """Lets `loader` follow a timetable; gives the pilot that does."""
    run = tuning_of(loader)._run
    run.steering = Timetable(run.own, plan)
    return run.steering


def patiently(iterator):
    """The iterator's batches; a loader that is being started is waited for, so that what is switched is no chance."""
    for batch in iterator:
        yield batch
        until = time.monotonic() + 90
        while iterator._next_segment and not iterator._next_segment.is_ready and not iterator._next_segment.failure:
            assert time.monotonic() < until
            time.sleep(0.001)
