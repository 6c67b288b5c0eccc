"""Plans whose epochs are measured: what is delivered stays the user's own, whoever reads; runs leave their figures."""

import dataclasses

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from plumb.core import plan
from plumb.core.config import Config
from plumb.core.plan import Claim, LoaderResult, Measured, Plan, Prediction
from plumb.runtime import run_clock
from plumb.runtime.planned_loader import PlannedLoader
from tests.parts.observers import observed_worker
from tests.parts.planned import only, plan_of, run_on, write

LENGTH, BATCH = 48, 4
PLANS = [Config(2, 2), Config(2, 2, persistent_workers=True), Config(1, 4)]


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """The samples here say who made them, so no two makings are equal."""
    monkeypatch.setenv("PLUMB_CHECK", "0")


class Rows(Dataset):
    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        return torch.tensor([index, observed_worker() is not None])


class Turns:
    """A clock that wants the user's own configuration in turns, as a test says: after so many batches of all."""

    is_over = False

    def __init__(self, changes):
        self.changes, self.batches, self.ends = set(changes), 0, 0
        self.wants_own = 0 in self.changes
        self.sides = []

    def epoch_begins(self):
        pass

    def epoch_begun(self, asked, got):
        assert got >= asked

    def delivered(self, asked, got, is_own, is_steady):
        assert got >= asked
        self.batches += 1
        self.sides.append(is_own)
        if self.batches in self.changes:
            self.wants_own = not self.wants_own

    def epoch_ended(self, asked, got):
        self.ends += 1

    def give_up(self):
        self.is_over = True


def entry(config, own, claim=None):
    rate = (90.0, 110.0)
    return LoaderResult(
        name="loader",
        site="train.py:1",
        dataset="Rows",
        batch_size=BATCH,
        samples_per_batch=BATCH,
        baseline=Measured(own, 100.0, rate),
        tuned=Measured(config, 200.0, rate),
        predicted=Prediction(200.0, "cpu", {"cpu": 1.0}),
        claim=claim,
    )


@pytest.mark.parametrize("changes", [(12,), (12, 24), (0, 12), (3,), (3, 30), (0, 15, 40)])
@pytest.mark.parametrize("config", PLANS)
def test_turns_of_the_own_configuration_change_no_batch(config, changes):
    """As long epochs end and begin, and within them: each sample once an epoch, in the order of the plain loader."""
    torch.manual_seed(7)
    plain = [batch[:, 0].tolist() for _ in range(4) for batch in DataLoader(Rows(), BATCH, shuffle=True)]
    torch.manual_seed(7)
    loader, clock = DataLoader(Rows(), BATCH, shuffle=True), Turns(changes)
    planned = PlannedLoader(loader, entry(config, Config()), Config(), clock=clock)
    found = []
    for _ in range(4):
        found += [batch[:, 0].tolist() for batch in planned.start_unseen(loader, lambda: iter(loader), print)]
    assert found == plain
    assert clock.ends == 4
    assert clock.batches == len(plain)


def test_turns_begin_with_their_epoch():
    loader, clock = DataLoader(Rows(), BATCH), Turns([12, 24])
    planned = PlannedLoader(loader, entry(PLANS[1], Config()), Config(), clock=clock)
    epochs = [list(planned.start_unseen(loader, lambda: iter(loader), print)) for _ in range(3)]
    in_workers = [{bool(flag) for batch in epoch for flag in batch[:, 1].tolist()} for epoch in epochs]
    assert in_workers == [{True}, {False}, {True}]
    assert clock.sides == [False] * 12 + [True] * 12 + [False] * 12


def test_epochs_that_are_left_are_not_ended():
    loader, clock = DataLoader(Rows(), BATCH), Turns([])
    planned = PlannedLoader(loader, entry(PLANS[0], Config()), Config(), clock=clock)
    for _ in range(2):
        for batch in planned.start_unseen(loader, lambda: iter(loader), print):
            if batch[0, 0] >= 16:
                break
    assert (clock.ends, clock.batches) == (0, 10)


SCRIPT = """
import time, torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from functools import partial

observed = partial(get_worker_info)
class Rows(Dataset):
    def __len__(self): return 32
    def __getitem__(self, index):
        time.sleep(0.05 if observed() else 0.001)
        return torch.tensor([index, observed() is not None])

rows = Rows()
{made_before}
for epoch in range(8):
    {made_within}
    workers, seen = set(), []
    for batch in loader:
        workers |= set(batch[:, 1].tolist()); seen += batch[:, 0].tolist()
    print(epoch, workers == {{1}}, seen == list(range(32)))
"""
MADE = "loader = DataLoader(rows, 4)"


@pytest.mark.slow
@pytest.mark.parametrize("places", [(MADE, ""), ("", MADE)], ids=["lasts", "made for each epoch"])
def test_a_plan_that_is_slower_is_left_and_the_next_run_does_not_use_it(tmp_path, places):
    write(tmp_path, {"train.py": SCRIPT.format(made_before=places[0], made_within=places[1])})
    made = only(plan_of(tmp_path, Config(1, 2)), "loader")
    claimed = dataclasses.replace(made.loaders[0], claim=Claim(1000.0, 4000.0, 4000.0, 4000.0))
    path = tmp_path / "train.plumb.json"
    plan.write(dataclasses.replace(made, loaders=(claimed,)), path)
    ran = run_on(plan.read(path), tmp_path)
    epochs = ran.out.split("\n")[:8]
    assert all(line.endswith("True") for line in epochs), ran.out
    assert epochs[0] == "0 True True"
    assert epochs[-1] == "7 False True"
    assert "by the clock your loop runs 0." in ran.err
    delivered = plan.read(path).loaders[0].delivered
    assert delivered.is_slower
    assert delivered.ratio < 0.7
    again = run_on(plan.read(path), tmp_path)
    assert "an earlier run was slower on it" in again.err
    assert again.out.split("\n")[0] == "0 False True"


def test_a_plan_without_a_claim_is_not_measured():
    loader = DataLoader(Rows(), BATCH)
    planned = PlannedLoader(loader, entry(PLANS[0], Config()), Config())
    assert planned._clock is None


def test_a_file_that_cannot_be_written_is_no_matter_for_the_run(tmp_path, monkeypatch, capsys):
    from plumb.core import plan_marks

    path = tmp_path / "train.plumb.json"
    plan.write(Plan("train.py", {}, 1.0, 1.0, (entry(PLANS[0], Config(), Claim(1.0, 1e-9, 1e-9, 1e-9)),)), path)
    monkeypatch.setattr(plan_marks, "replace_file", lambda path, data: (_ for _ in ()).throw(OSError("read-only")))
    monkeypatch.setattr(run_clock, "_on_trial", None)
    loader = DataLoader(Rows(), BATCH)
    planned = PlannedLoader(loader, plan.read(path).loaders[0], Config())
    batches = list(planned.start_unseen(loader, lambda: iter(loader), print))
    assert len(batches) == LENGTH // BATCH
    assert capsys.readouterr().err == ""
