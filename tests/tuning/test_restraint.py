"""What a tuning does not try, since samples made elsewhere or ahead of time would not be the user's own."""

import os
import socket
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from plumb.core.config import CacheChoice, Config
from plumb.instrument.sample_effects import CHILD_SECONDS
from plumb.model.inputs import CutCost, ThreadsCost
from plumb.rewrites.find_rewrites import AvailableRewrites
from plumb.runtime.loader import NO_REWRITES
from plumb.tuning.loop_changes import LoopChanges
from plumb.tuning.measure.training_loop import LoopMeter
from plumb.tuning.restraint import FREE, restraint_of
from plumb.tuning.search.search_space import WorkerStart, worker_start

OWN = Config(0)


class Rows(Dataset):
    progress = 0

    def __init__(self, make=None, **attributes):
        self.make = make
        vars(self).update(attributes)

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return self.make(self, index) if self.make else index + self.progress


def counting(rows, index):
    rows.count += 1
    return index


def drawing(rows, index):
    return rows.rng.random()


def asking(rows, index):
    rows.server.sendall(b"?")
    return rows.server.recv(1) or 1 / 0


def available():
    threads = ThreadsCost(8, None, 0.2, 0.2, 1.0, 0.001, 0.0, 0.0)
    cut = CutCost("read", *[0.0] * (len(CutCost.__dataclass_fields__) - 1))
    return AvailableRewrites(NO_REWRITES, (cut,), (), (threads,))


def test_samples_that_change_what_they_read_are_left_as_they_are():
    loader = DataLoader(Rows(counting, count=0), batch_size=4)
    restraint = restraint_of(loader, OWN, range(8), "")
    assert "reading changes Rows.count" in restraint.workers
    assert worker_start(loader, OWN, (), restraint) == WorkerStart(why_not=restraint.workers)
    left = restraint.allowed(available())
    assert (left.cuts, left.deferrals, left.threads, left.rewrites) == ((), (), (), NO_REWRITES)
    assert loader.dataset.count == 0


def test_a_generator_of_the_datasets_own_is_drawn_from_in_one_process_and_one_after_the_other():
    loader = DataLoader(Rows(drawing, rng=np.random.default_rng(0)), batch_size=4)
    restraint = restraint_of(loader, OWN, range(8), "")
    assert "workers would each draw from a copy" in worker_start(loader, OWN, (), restraint).why_not
    left = restraint.allowed(available())
    assert (len(left.cuts), left.threads) == (1, ())


def test_what_the_loop_changes_is_not_made_ahead_of_time():
    loader = DataLoader(Rows(), batch_size=4)
    restraint = restraint_of(loader, OWN, range(8), "Rows.progress")
    assert "your loop changes Rows.progress" in worker_start(loader, OWN, (), restraint).why_not
    left = restraint.allowed(available())
    assert (left.cuts, len(left.threads)) == ((), 1)


def test_workers_that_a_fork_would_break_are_not_forked():
    here, there = socket.socketpair()
    loader = DataLoader(Rows(asking, server=here), batch_size=4)
    restraint = restraint_of(loader, OWN, range(8), "")
    assert restraint.workers is None
    start = worker_start(loader, OWN, (), restraint)
    assert start.method == "spawn" or "in a forked process, making a sample raised" in start.why_not
    here.close()
    there.close()


def hanging(rows, index):
    if os.getpid() != rows.home:
        time.sleep(600)
    return index


def test_a_sample_that_hangs_in_a_forked_process_is_waited_for_as_long_as_the_budget_allows():
    loader = DataLoader(Rows(hanging, home=os.getpid()), batch_size=4)
    begun = time.perf_counter()
    restraint = restraint_of(loader, OWN, range(8), "", child_seconds=1.0)
    assert time.perf_counter() - begun < CHILD_SECONDS / 2
    assert "hung a process that tried it" in restraint.forked
    assert restraint.workers is None


@pytest.mark.parametrize("make", [counting, drawing])
def test_where_each_worker_has_its_own_the_users_number_of_workers_stays(make):
    own = Config(2, 2)
    loader = DataLoader(Rows(make, count=0, rng=np.random.default_rng(0)), batch_size=4, num_workers=2)
    restraint = restraint_of(loader, own, range(8), "")
    assert "the number of workers stays yours" in restraint.other_workers
    assert worker_start(loader, own, (), restraint) == WorkerStart(keeps_count=True)
    assert restraint.allowed(available()).threads == ()


def test_where_the_user_has_workers_they_have_copies_already():
    loader = DataLoader(Rows(), batch_size=4, num_workers=2)
    assert restraint_of(loader, Config(2, 2), range(8), "Rows.progress") == FREE


def through(loop, steps, batches=6):
    """Runs a course that hands out batches, with `steps` as the body of the loop."""
    course = loop.measure(iter(range(1000)), batches, 0.0, float("inf"), 1.0)
    batch = next(course)
    while True:
        interrupted = steps(batch)
        try:
            batch = course.send(bool(interrupted))
        except StopIteration:
            return


def test_a_loop_that_changes_the_dataset_is_seen_at_its_first_batch():
    loader = DataLoader(Rows(), batch_size=4)
    loop = LoopMeter(4, 6)
    loop.changes = LoopChanges(loader)

    def step(batch):
        loader.dataset.progress += 1

    through(loop, step)
    assert loop.changes.place == "Rows.progress"


def test_what_happens_between_epochs_is_not_the_loops_doing():
    loader = DataLoader(Rows(), batch_size=4)
    changes = LoopChanges(loader)
    for batch in range(4):
        changes.before()
        loader.dataset.progress = int(batch >= 2)
        changes.after(interrupted=batch in (0, 2))
    assert changes.place == ""


def test_a_configuration_with_values_made_ahead_is_told_from_others():
    assert Config(2, 2).makes_ahead
    assert Config(0, cache=CacheChoice("read", "memory", 1, 1.0)).makes_ahead
    assert not Config(0, pin_memory=True).makes_ahead


class Banked(Rows):
    def __init__(self):
        super().__init__(lambda rows, index: torch.tensor(index), bank=0)


class Asking(Banked):
    def __getitem__(self, index):
        return index, get_worker_info() is None


def set_bank(worker):
    get_worker_info().dataset.bank = worker


def seed_all(worker):
    torch.manual_seed(worker)


@pytest.mark.parametrize(("dataset", "init"), [(Banked, set_bank), (Asking, None)], ids=["init", "samples"])
def test_workers_with_an_identity_stay_the_script_s_and_nothing_is_rewritten(dataset, init):
    loader = DataLoader(dataset(), batch_size=4, num_workers=2, worker_init_fn=init)
    found = restraint_of(loader, Config(2, 2), range(4), "")
    assert found.other_workers is not None
    assert found.other_workers == found.stores == found.rewrites == found.threads
    assert ("set_bank, test_restraint.py:" if init else "Asking.__getitem__ (test_restraint.py:") in found.other_workers
    start = worker_start(loader, Config(2, 2), (), found)
    assert (start.keeps_count, start.why_not) == (True, None)


@pytest.mark.parametrize(("dataset", "init"), [(Banked, set_bank), (Asking, None)], ids=["init", "samples"])
def test_a_script_without_workers_is_given_none_that_have_an_identity(dataset, init):
    found = restraint_of(DataLoader(dataset(), batch_size=4, worker_init_fn=init), Config(), range(4), "")
    assert found.workers is not None
    assert found.workers == found.stores


@pytest.mark.parametrize("own", [Config(), Config(2, 2)], ids=str)
def test_a_worker_init_fn_that_seeds_restrains_nothing(own):
    loader = DataLoader(Banked(), batch_size=4, worker_init_fn=seed_all, **own.loader_arguments())
    assert restraint_of(loader, own, range(4), "") == FREE
