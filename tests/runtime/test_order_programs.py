"""Programs of iterators, breaks, zips and draws: indices and generators are torch's after every step, on any plan.

Two worlds run the same program: one on torch's loaders, one on a plan or tuned live. Each has random generators of its
own, which are put in before its step and compared after it. `PLUMB_PROGRAMS` sets how many programs are tried.
"""

import functools
import os
import random

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from plumb.core.config import Config
from plumb.core.plan import LoaderResult, Measured, Prediction
from plumb.instrument.rng_state import process_states, put_back
from plumb.runtime.planned_loader import PlannedLoader
from plumb.tuning.live import live_iterator, tuning_of
from tests.parts.live_parts import Eager, Lazy, follow

LENGTH, BATCH = 40, 2
PROGRAMS = int(os.environ.get("PLUMB_PROGRAMS", "8"))


class Numbers(torch.utils.data.Dataset):
    """Samples are their indices; some draw random numbers while they are made."""

    def __init__(self, draws):
        self.draws = draws

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        if self.draws:
            random.random(), np.random.random(), torch.rand(())
        return index


class ByLoss(Sampler):
    """Draws by what the steps before have taught it."""

    def __init__(self):
        self.weights = torch.ones(LENGTH)

    def __len__(self):
        return LENGTH

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for _ in range(LENGTH):
            yield int(torch.multinomial(self.weights, 1, generator=generator))


class OwnGenerator(ByLoss):
    """Draws each index from a generator of its own."""

    def __init__(self):
        self.generator = np.random.default_rng(0)

    def __iter__(self):
        for _ in range(LENGTH):
            yield int(self.generator.integers(LENGTH))


class Buckets(Sampler):
    """Shuffles its batches when it is first asked, and counts its epochs when it has given the last."""

    def __init__(self):
        self.epoch = 0

    def __len__(self):
        return LENGTH // BATCH

    def __iter__(self):
        order = torch.randperm(LENGTH).tolist()
        for start in range(0, LENGTH, BATCH):
            yield [(index + self.epoch) % LENGTH for index in order[start : start + BATCH]]
        self.epoch += 1


def own():
    return torch.Generator().manual_seed(5)


SAMPLING = {
    "in order": lambda: {"batch_size": BATCH},
    "shuffled": lambda: {"batch_size": BATCH, "shuffle": True},
    "the loader's own generator": lambda: {"batch_size": BATCH, "shuffle": True, "generator": own()},
    "the sampler's own generator": lambda: {"batch_size": 2, "sampler": RandomSampler(range(LENGTH), generator=own())},
    "again and again": lambda: {
        "batch_size": BATCH, "sampler": RandomSampler(range(LENGTH), True, LENGTH + 3, generator=own())
    },
    "several rounds": lambda: {"batch_size": BATCH, "sampler": RandomSampler(range(9), False, LENGTH, generator=own())},
    "weighted": lambda: {"batch_size": BATCH, "sampler": WeightedRandomSampler([1.0] * LENGTH, LENGTH)},
    "a subset": lambda: {"batch_size": 3, "sampler": SubsetRandomSampler(range(5, LENGTH)), "drop_last": True},
    "eager": lambda: {"batch_size": BATCH, "sampler": Eager(LENGTH)},
    "index by index": lambda: {"batch_size": BATCH, "sampler": Lazy(LENGTH)},
    "by loss": lambda: {"batch_size": BATCH, "sampler": ByLoss()},
    "a generator in the sampler": lambda: {"batch_size": BATCH, "sampler": OwnGenerator()},
    "buckets": lambda: {"batch_sampler": Buckets()},
    "batches by hand": lambda: {"batch_sampler": BatchSampler(Eager(LENGTH), BATCH, True)},
    "single samples": lambda: {"batch_size": None, "sampler": Eager(LENGTH)},
}  # fmt: skip
USERS = [Config(), Config(), Config(), Config(2, 2), Config(1, 2, persistent_workers=True)]
OTHERS = [Config(), Config(1, 4), Config(2, 2), Config(2, 2, persistent_workers=True), Config(fetch_threads=2)]


def planned_on(loader, config, users, compared=()):
    entry = LoaderResult(
        name="loader",
        site="train.py:1",
        dataset="Numbers",
        batch_size=BATCH,
        baseline=Measured(users, 100.0, (90.0, 110.0)),
        tuned=Measured(config, 100.0, (90.0, 110.0)),
        predicted=Prediction(100.0, "cpu", {"cpu": 1.0}),
        workers_compared=compared,
    )
    return PlannedLoader(loader, entry, users)


class World:
    """Some loaders, the iterators that a program has begun, and the process's generators."""

    def __init__(self, kinds, users, draws, start):
        self._states = None
        self.iterators = {}
        with self:
            random.seed(1), np.random.seed(1), torch.manual_seed(1)
            self.loaders = [
                DataLoader(Numbers(draws), **SAMPLING[kind](), **users.loader_arguments()) for kind in kinds
            ]
            self.starts = [start(loader) for loader in self.loaders]

    def __enter__(self):
        self._others = process_states()
        if self._states is not None:
            put_back(self._states)

    def __exit__(self, *_):
        self._states = process_states()
        put_back(self._others)

    def do(self, step):
        with self:
            return step(self)

    def states(self):
        """The states of all generators, the process's and the loaders' own."""
        own = [loader.generator for loader in self.loaders] + [
            getattr(loader.sampler, "generator", None) for loader in self.loaders
        ]
        held = [g.get_state().tolist() if isinstance(g, torch.Generator) else repr(g and g.bit_generator.state)
                for g in own]  # fmt: skip
        pythons, numpys, torchs = self._states
        return pythons, numpys[1].tolist(), numpys[2], torchs.tolist(), held


def taken(iterator):
    batch = next(iterator, None)
    return batch if batch is None else torch.as_tensor(batch).tolist()


def teach(loader, batch):
    sampler = loader.sampler
    if isinstance(sampler, ByLoss) and hasattr(sampler, "weights") and batch is not None:
        sampler.weights[batch] *= 0.5


class Programs(RuleBasedStateMachine):
    """What a script may do with two loaders."""

    @initialize(
        kinds=st.lists(st.sampled_from(list(SAMPLING)), min_size=2, max_size=2),
        users=st.sampled_from(USERS),
        config=st.sampled_from(OTHERS),
        draws=st.booleans(),
    )
    def begin(self, kinds, users, config, draws):
        # Without workers, samples that draw move the training's generators, which workers can't do.
        draws = draws and users.num_workers > 0
        self.users = users
        self.plain = World(kinds, users, draws, lambda loader: functools.partial(iter, loader))
        self.other = World(kinds, users, draws, functools.partial(self.started, config, users))
        self.begun = 0

    def started(self, config, users, loader):
        raise NotImplementedError

    def both(self, step):
        expected, found = self.plain.do(step), self.other.do(step)
        assert found == expected

    @rule(which=st.integers(0, 1))
    def iterate(self, which):
        self.begun += 1

        def step(world):
            world.iterators[self.begun] = which, world.starts[which]()

        self.both(step)

    @precondition(lambda self: self.plain.iterators)
    @rule(data=st.data(), batches=st.integers(1, 9))
    def take(self, data, batches):
        number = data.draw(st.sampled_from(sorted(self.plain.iterators)))

        def step(world):
            which, iterator = world.iterators[number]
            seen = []
            for _ in range(batches):
                seen.append((taken(iterator), torch.rand(()).item()))
                teach(world.loaders[which], seen[-1][0])
            return seen

        self.both(step)

    @precondition(lambda self: self.plain.iterators)
    @rule(data=st.data())
    def leave(self, data):
        number = data.draw(st.sampled_from(sorted(self.plain.iterators)))
        self.both(lambda world: world.iterators.pop(number) and None)

    @rule(which=st.integers(0, 1), stop=st.none() | st.integers(1, 12))
    def loop(self, which, stop):
        def step(world):
            seen = []
            for number, batch in enumerate(world.starts[which]()):
                seen.append(torch.as_tensor(batch).tolist())
                teach(world.loaders[which], seen[-1])
                if number == stop:
                    break
            return seen

        self.both(step)

    @rule(batches=st.integers(1, 5))
    def zipped(self, batches):
        def step(world):
            seen = []
            for _, pair in zip(range(batches), zip(world.starts[0](), world.starts[1](), strict=False), strict=False):
                seen.append([torch.as_tensor(part).tolist() for part in pair])
                for loader, batch in zip(world.loaders, seen[-1], strict=True):
                    teach(loader, batch)
            return seen

        self.both(step)

    @rule(how=st.sampled_from(["torch", "numpy", "python", "the loader's"]))
    def draw(self, how):
        def step(world):
            if how == "torch":
                return torch.rand(()).item()
            if how == "numpy":
                return np.random.random()
            if how == "python":
                return random.random()
            return [torch.rand((), generator=loader.generator).item() for loader in world.loaders]

        self.both(step)

    @invariant()
    def generators_are_where_torch_leaves_them(self):
        if hasattr(self, "plain"):
            assert self.other.states() == self.plain.states()

    def teardown(self):
        for world in (self.plain, self.other) if hasattr(self, "plain") else ():
            world.iterators.clear()


class PlannedPrograms(Programs):
    def started(self, config, users, loader):
        planned = planned_on(loader, config, users)
        return lambda: planned.start_unseen(loader, functools.partial(iter, loader), lambda text: None)


class LivePrograms(Programs):
    def started(self, config, users, loader):
        follow(loader, [(4, config)])
        return functools.partial(live_iterator, loader)

    @rule(which=st.integers(0, 1), config=st.sampled_from(OTHERS))
    def switch(self, which, config):
        tuning_of(self.other.loaders[which])._run.steering.wanted = config


@pytest.fixture(autouse=True)
def _unchecked(monkeypatch):
    # To make batches twice takes most of the time, and no index.
    monkeypatch.setenv("PLUMB_CHECK", "0")


for machine in (PlannedPrograms, LivePrograms):
    machine.TestCase.settings = settings(max_examples=PROGRAMS, stateful_step_count=10, deadline=None)
# All of them.
pytestmark = pytest.mark.slow
TestPlannedPrograms = PlannedPrograms.TestCase
TestLivePrograms = LivePrograms.TestCase
