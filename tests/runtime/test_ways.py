"""What is guarded where a script runs on a plan is guarded in every way in which a loader comes to one."""

import secrets
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from plumb.core.config import CacheChoice, Config, Cut, Rewrites
from plumb.runtime.checks import running_checks
from plumb.runtime.replay.sample_code import code_of_samples
from tests.parts.forked import run_forked
from tests.ways import every_way, trained

LASTING = Config(2, 2, persistent_workers=True)
STORE = Config(1, 2, persistent_workers=True, cache=CacheChoice("sample", "memory", 2**24, 1.0))
SKIP = object()
HIDDEN = {"step": 0}


class Rows(Dataset):
    progress = 0

    def __init__(self):
        self.rare, self.rng, self.token = [], None, secrets.token_hex(8)

    def __len__(self):
        return 80

    def __getitem__(self, index):
        return torch.tensor([index + 1000 * self.progress])


class Writing(Rows):
    def __getitem__(self, index):
        if index == 61:
            self.rare.append(index)
        return super().__getitem__(index)


class Drawing(Rows):
    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def __getitem__(self, index):
        return torch.tensor([self.rng.random() if index % 20 == 15 else 0.0])


class Hidden(Rows):
    """Samples that a table changes which no look at the dataset leads to."""

    def __getitem__(self, index):
        table = vars(sys.modules[__name__])["HID" + "DEN"]
        return torch.tensor(index + 1000 * table["step"])


def skipping(samples):
    return SKIP if any(int(sample[0]) == 61 for sample in samples) else default_collate(samples)


def whole(loader, begin):
    for _ in range(2):
        yield ["skip" if batch is SKIP else batch.tolist() for batch in begin()]
        yield list(loader.dataset.rare)


def changing_between(loader, begin):
    for epoch in range(3):
        yield [batch.tolist() for batch in begin()]
        loader.dataset.progress = epoch


def changing_within(loader, begin):
    for step, batch in enumerate(begin()):
        yield batch.tolist()
        loader.dataset.progress = step


def first_ones(loader, begin):
    for step in range(6):
        yield next(iter(begin())).tolist()
        loader.dataset.progress = step


CASES = {
    "changed between epochs": (Rows, None, changing_between, "changes Rows.progress between epochs"),
    "changed within an epoch": (Rows, None, changing_within, "changes Rows.progress while an epoch runs"),
    "changed by a rare sample": (Writing, None, whole, "changed Writing.rare"),
    "drawn by a rare sample": (Drawing, None, whole, "random generator of the dataset's own"),
    "known by identity": (Rows, skipping, whole, "a batch holds the global SKIP itself"),
    "one batch of each epoch": (Rows, None, first_ones, "each time that it has read one batch"),
}


@pytest.mark.slow
@every_way
@pytest.mark.parametrize(("dataset", "collate", "train", "line"), CASES.values(), ids=CASES)
def test_a_training_is_the_script_s_own(way, dataset, collate, train, line, monkeypatch):
    make = lambda: DataLoader(dataset(), batch_size=4, collate_fn=collate)  # noqa: E731
    plain, planned, said = trained(way, make, train, LASTING, monkeypatch)
    assert planned == plain
    assert any(line in each for each in said)


@every_way
def test_batches_are_checked_and_what_differs_is_not_delivered(way, monkeypatch):
    monkeypatch.setattr(running_checks, "tallies", [])
    monkeypatch.setattr(running_checks, "_say_at_the_end", lambda: None)

    def train(loader, begin):
        for step in range(3):
            monkeypatch.setitem(HIDDEN, "step", step)
            yield [batch.tolist() for batch in begin()]

    rewrites = Rewrites((Cut("sample", (), (), code_of_samples(Hidden())),))
    make = lambda: DataLoader(Hidden(), batch_size=4)  # noqa: E731
    plain, planned, said = trained(way, make, train, STORE, monkeypatch, rewrites)
    assert planned == plain
    assert "batch 1 of epoch 2 differs" in " ".join(said)
    (tally,) = [tally for tally in running_checks.tallies if tally.checked]
    assert tally.equal


@every_way
@pytest.mark.parametrize(("asked", "checked"), [("0", 0), ("1", 5)])
def test_the_user_says_how_many_are_checked(way, asked, checked, monkeypatch):
    monkeypatch.setenv("PLUMB_CHECK", asked)
    monkeypatch.setattr(running_checks, "tallies", [])
    monkeypatch.setattr(running_checks, "_say_at_the_end", lambda: None)
    train = lambda loader, begin: (sum(1 for _ in begin()) for _ in range(1))  # noqa: E731
    make = lambda: DataLoader(Rows(), batch_size=16)  # noqa: E731
    trained(way, make, train, LASTING, monkeypatch)
    assert sum(tally.checked for tally in running_checks.tallies) == checked


RANKS = """
import os, sys
import torch.multiprocessing as mp
from torch.utils.data import DataLoader
from plumb.core.config import Config
from plumb.runtime.planned_loader import PlannedLoader
from tests.ways import entry_for

def rank(number, said):
    os.dup2(os.open(f"{said}.{number}", os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    loader = DataLoader(range(40), batch_size=4)
    planned = PlannedLoader(loader, entry_for(loader, Config(1, 2)), Config())
    assert len(list(planned.start_unseen(loader, lambda: iter(loader), print))) == 10

mp.start_processes(rank, args=(os.environ["SAID"],), nprocs=2, start_method="fork")
for number in range(2):
    lines = open(f"{os.environ['SAID']}.{number}").read().splitlines()
    (line,) = [line for line in lines if "10 batches of loader made a second time" in line]
"""


def test_each_rank_says_what_its_checks_came_to(tmp_path, monkeypatch):
    monkeypatch.setenv("SAID", str(tmp_path / "said"))
    monkeypatch.setenv("PLUMB_CHECK", "1")
    assert run_forked(RANKS) == ""
