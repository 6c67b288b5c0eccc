"""The order of samples on the plan's configuration is the user's own, whatever the sampler does when it is asked."""

import functools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Sampler, WeightedRandomSampler

from plumb.core.config import Config
from plumb.runtime.epoch_start import Epochs

LENGTH = 12


class Eager(Sampler):
    """Draws its order from torch's global generator when it is asked, as many samplers of users do."""

    def __len__(self):
        return LENGTH

    def __iter__(self):
        return iter(torch.randperm(LENGTH).tolist())


class Shuffling(Sampler):
    """Shuffles its own list each time that it is asked."""

    def __init__(self):
        self.random, self.order = random.Random(0), list(range(LENGTH))

    def __len__(self):
        return LENGTH

    def __iter__(self):
        self.random.shuffle(self.order)
        return iter(list(self.order))


class EagerBatches(Eager):
    """Makes its batches when it is asked."""

    def __iter__(self):
        return iter(torch.randperm(LENGTH).view(3, 4).tolist())


SAMPLING = {
    "shuffle": lambda: {"shuffle": True},
    "in order": dict,
    "eager": lambda: {"sampler": Eager()},
    "shuffling": lambda: {"sampler": Shuffling()},
    "weighted": lambda: {"sampler": WeightedRandomSampler([1.0] * LENGTH, LENGTH)},
    "a generator of its own": lambda: {"shuffle": True, "generator": torch.Generator().manual_seed(5)},
    "batches by hand": lambda: {"batch_sampler": torch.utils.data.BatchSampler(Shuffling(), 4, False)},
    "eager batches": lambda: {"batch_sampler": EagerBatches()},
    "single samples": lambda: {"sampler": Eager(), "batch_size": None},
}
users_configs = [Config(), Config(1, 2), Config(1, 2, persistent_workers=True)]
plans = [Config(), Config(2, 2), Config(2, 4, persistent_workers=True)]
pairs = [
    (users, planned)
    for users in users_configs
    for planned in plans
    if not (users.persistent_workers and planned.num_workers and not planned.persistent_workers)
]


def delivered(sampling, config, users, epochs):
    """What some epochs deliver, with a draw of the training's own after each batch, and what is drawn at the end."""
    torch.manual_seed(1)
    arguments = SAMPLING[sampling]()
    if not {"batch_sampler", "batch_size"} & set(arguments):
        arguments["batch_size"] = 5
    loader = DataLoader(range(LENGTH), **arguments, **config.loader_arguments())
    start = functools.partial(iter, loader)
    if users is not None:
        keeper = Epochs(loader, users)
        start = functools.partial(keeper.start, loader, functools.partial(iter, loader))
    seen = [(torch.as_tensor(batch).tolist(), torch.rand(1).item()) for _ in range(epochs) for batch in start()]
    return seen, torch.rand(1).item()


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLING)
@given(st.sampled_from(pairs), st.integers(1, 3))
@settings(max_examples=12)
def test_the_order_is_the_user_s_own(sampling, pair, epochs):
    users, planned = pair
    assert delivered(sampling, planned, users, epochs) == delivered(sampling, users, None, epochs)


def test_torch_alone_would_change_it():
    """Guards the tests above: without the keeper, each of these differs."""
    persistent = Config(2, 2, persistent_workers=True)
    for sampling, planned in (
        ("eager batches", Config(2, 2)),
        ("single samples", Config(2, 2)),
        ("shuffle", persistent),
    ):
        assert delivered(sampling, planned, None, 3) != delivered(sampling, Config(), None, 3)


def test_the_loader_keeps_the_user_s_sampler():
    sampler = Shuffling()
    loader = DataLoader(range(LENGTH), sampler=sampler, batch_size=4)
    batch_sampler = loader.batch_sampler
    Epochs(loader, Config(1, 2)).start(loader, functools.partial(iter, loader))
    assert loader.sampler is sampler
    assert loader.batch_sampler is batch_sampler
