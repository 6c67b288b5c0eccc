"""What a script seems to do to its dataset between epochs, told in the first one from the loops around it."""

import random
import sys

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from plumb.instrument.call_site import find_site
from plumb.tuning.script_forecast import between_epochs

EPOCH = 0


class Settings:
    level = 0


class Flip:
    def __init__(self):
        self.enabled = True

    def __call__(self, value):
        return -value if self.enabled else value


class Rows(Dataset):
    def __init__(self):
        self.rows = list(range(32))
        self.targets = torch.zeros(32)
        self.config = {"crop": 4}
        self.settings = Settings()
        self.transforms = [Flip()]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index] * self.config["crop"] + self.settings.level + EPOCH
        return self.transforms[0](row), self.targets[index]

    def set_epoch(self, epoch):
        self.epoch = epoch

    def mean(self):
        return sum(self.rows) / len(self.rows)


def seen(loader, site):
    """What is foreseen at a batch of the loop that calls this."""
    return between_epochs(sys._getframe(1), loader, site)


def here():
    return find_site(sys._getframe(1))


def labels(data):
    loader, site = DataLoader(data, 4), here()
    for epoch in range(2):
        for _ in loader:
            yield seen(loader, site)
        for index in range(4):
            data.targets[index] = epoch


def attribute(data):
    loader, site = DataLoader(data, 4), here()
    for epoch in range(2):
        for _ in loader:
            yield seen(loader, site)
        data.settings.level = epoch


def key(data):
    loader, site = DataLoader(data, 4), here()
    epoch = 0
    while epoch < 2:
        data.config["crop"] = 4 - epoch
        for _ in loader:
            yield seen(loader, site)
        epoch += 1


def transform(data):
    loader, site = DataLoader(data, 4), here()
    for epoch in range(2):
        for _ in loader:
            yield seen(loader, site)
        if epoch == 1:
            loader.dataset.transforms[0].enabled = False


def shuffled(data):
    loader, site = DataLoader(data, 4), here()
    for _ in range(2):
        random.shuffle(data.rows)
        for _ in loader:
            yield seen(loader, site)


def sorted_in_place(data):
    loader, site = DataLoader(data, 4), here()
    for _ in range(2):
        for _ in loader:
            yield seen(loader, site)
        data.rows.reverse()


def by_method(data):
    loader, site = DataLoader(data, 4), here()
    for epoch in range(2):
        data.set_epoch(epoch)
        for _ in loader:
            yield seen(loader, site)


def global_name(data):
    global EPOCH
    loader, site = DataLoader(data, 4), here()
    for epoch in range(2):
        for _ in loader:
            yield seen(loader, site)
        EPOCH = epoch


def in_a_function(data):
    loader, site = DataLoader(data, 4), here()
    for epoch in range(2):
        yield from trained(loader, site)
        data.settings.level = epoch


def trained(loader, site):
    for _ in loader:
        yield seen(loader, site)


@pytest.mark.parametrize(
    "script",
    [labels, attribute, key, transform, shuffled, sorted_in_place, by_method, global_name, in_a_function],
)
def test_what_changes_the_dataset_between_epochs_is_foreseen(script):
    found = next(script(Rows()))
    assert found.changed
    assert not found.is_made_anew


def nothing(data):
    loader, site = DataLoader(data, 4), here()
    totals, best = {}, None
    for epoch in range(2):
        total = 0.0
        for batch in loader:
            total += float(batch[1].sum())
            yield seen(loader, site)
        totals[epoch] = total
        best = data.mean()
        loader.note = best
        random.shuffle(list(totals))


def one_pass(data):
    loader, site = DataLoader(data, 4), here()
    for _ in loader:
        yield seen(loader, site)
    data.settings.level = 3


@pytest.mark.parametrize("script", [nothing, one_pass])
def test_what_leaves_the_dataset_alone_is_not_taken_for_a_change(script):
    found = next(script(Rows()))
    assert found.changed == ""
    assert not found.is_made_anew


def anew(data):
    for _ in range(2):
        loader, site = DataLoader(data, 4), here()
        for _ in loader:
            yield seen(loader, site)


def anew_over_a_part(data):
    for epoch in range(2):
        loader, site = DataLoader(Subset(data, range(epoch, 8)), 4), here()
        for _ in loader:
            yield seen(loader, site)


def anew_over_a_part_by_name(data):
    for epoch in range(2):
        part = Subset(data, range(epoch, 8))
        loader, site = DataLoader(part, 4), here()
        for _ in loader:
            yield seen(loader, site)


def test_a_loader_that_is_made_in_the_loop_is_made_anew():
    found = next(anew(Rows()))
    assert found.is_made_anew
    assert found.changed == ""


@pytest.mark.parametrize("script", [anew_over_a_part, anew_over_a_part_by_name])
def test_so_is_its_dataset(script):
    found = next(script(Rows()))
    assert found.is_made_anew
    assert found.changed.startswith("Subset(")


def test_loops_without_a_source_tell_nothing():
    space = {"seen": seen, "site": here(), "loader": DataLoader(TensorDataset(torch.zeros(4)), 2)}
    exec("found = []\nfor epoch in range(2):\n    for _ in loader: found.append(seen(loader, site))", space)
    assert {each.changed for each in space["found"]} == {""}
