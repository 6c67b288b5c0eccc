"""A share of the batches is made a second time, plainly: what differs ends the plan."""

import itertools
import os
import random
import secrets
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from checking import Loop
from torch.utils.data import DataLoader, Dataset, default_collate

from plumb.core.config import CacheChoice, Config, Cut, Rewrites
from plumb.instrument.rng_state import generator_states
from plumb.rewrites.find_deferrals import find_deferral
from plumb.runtime.checks import check_rate, running_checks
from plumb.runtime.checks.check_rate import CheckTimes, asked_rate, asked_rate_or_default, parse_rate
from plumb.runtime.replay.sample_code import code_of_samples
from tests.parts.observers import observed_worker

LENGTH = 32


@pytest.fixture(autouse=True)
def silent_end(monkeypatch):
    monkeypatch.setattr(running_checks, "_say_at_the_end", lambda: None)


ORDERS = [[list(range(start, start + 8)) for start in range(0, LENGTH, 8)]] * 3
FLAGS = {"augmentation": {"is_on": False}}
SHARED = torch.zeros(1).share_memory_()


def scaled(values):
    return values * 2.0


class Base(Dataset):
    """Samples that are the same each time; what derives from it makes others once in a while."""

    def __init__(self):
        self.rng = np.random.default_rng(5)
        self.augments, self.reads, self.last = False, 0, 0.0

    def __len__(self):
        return LENGTH

    def values(self, index):
        return torch.from_numpy(np.random.default_rng(index).random(8))

    def change(self, values, index):
        return values

    def __getitem__(self, index):
        return scaled(self.change(self.values(index), index)), index


def whole(dataset):
    return Cut("samples", (), (), code_of_samples(dataset))


def stored_whole(dataset):
    return Config(cache=CacheChoice("samples", "memory", 2**22, 1.0)), Rewrites((whole(dataset),))


def with_workers(config, workers=1):
    return Config(workers, 2, True, cache=config.cache, fetch_threads=config.fetch_threads, deferred=config.deferred)


# ---- sisters: samples that are not what they were when they were stored, and draw nothing that a generator shows


class ByEnvironment(Base):
    def change(self, values, index):
        return values + 1 if os.environ.get("PLUMB_TEST_AUGMENT") else values


class ByFlagInATable(Base):
    def change(self, values, index):
        return values + 1 if FLAGS["augmentation"]["is_on"] else values


class ByAttributeOfAClass(Base):
    amount = 0.0

    def change(self, values, index):
        return values + ByAttributeOfAClass.amount


class BySharedMemory(Base):
    """What the loop tells all workers at once."""

    def change(self, values, index):
        return values + SHARED


class ByHelper(Base):
    """A helper that another module would bring along: a name that the code doesn't name."""

    def change(self, values, index):
        return vars(__import__(__name__))["helper"](values)


def helper(values):
    return values


def turn_on(monkeypatch, kind):
    if kind is ByEnvironment:
        monkeypatch.setenv("PLUMB_TEST_AUGMENT", "1")
    elif kind is ByFlagInATable:
        monkeypatch.setitem(FLAGS["augmentation"], "is_on", True)
    elif kind is ByAttributeOfAClass:
        monkeypatch.setattr(ByAttributeOfAClass, "amount", 1.0)
    elif kind is BySharedMemory:
        monkeypatch.setattr(sys.modules[__name__], "SHARED", torch.ones(1).share_memory_())
    else:
        monkeypatch.setitem(globals(), "helper", lambda values: values + 1)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [ByEnvironment, ByFlagInATable, ByAttributeOfAClass, BySharedMemory, ByHelper])
def test_the_first_batch_from_a_store_is_checked(kind, workers, monkeypatch):
    """Neither the code nor the store's fingerprint can tell: what has changed is nowhere that they look."""
    dataset = kind()
    config, rewrites = stored_whole(dataset)
    own = secrets.token_hex(8)
    monkeypatch.setattr("plumb.runtime.store.dataset_store.fingerprint_of_part", lambda *_: (own, False))
    loop = Loop(dataset, with_workers(config) if workers else config, rewrites, is_planned=False)
    first = loop.epoch(ORDERS[0])
    assert loop.guard.history.tally.checked == 2
    turn_on(monkeypatch, kind)
    second = loop.epoch(ORDERS[1])
    assert len(loop.findings) == 1
    assert "the store of values after samples" in loop.findings[0]
    assert "batch 1 of epoch 2 differs" in loop.findings[0]
    assert [batch[0].tolist() for batch in second] == [(batch[0] + 2.0).tolist() for batch in first]
    assert loop.marked, "the plan is marked"
    assert loop.marked[0] in loop.findings[0]
    folder = loop.running.stored.spec.folder
    assert os.path.exists(os.path.join(folder, "ended"))
    assert not os.path.exists(os.path.join(folder, "data.mdb"))


def test_a_rare_sample_is_found_where_its_batch_is_checked(monkeypatch):
    """Augmented by what no generator shows, once the store has it."""

    class Secretly(Base):
        def change(self, values, index):
            return values + secrets.randbelow(2**30) if index == 13 else values

    dataset = Secretly()
    config, rewrites = stored_whole(dataset)
    loop = Loop(dataset, config, rewrites, rate=1.0)
    loop.epoch(ORDERS[0])
    assert len(loop.findings) == 1
    assert "can't be proven equal to" in loop.findings[0]
    assert "batch 2 of epoch 1" in loop.findings[0]
    assert "it was not delivered" in loop.findings[0]


@pytest.mark.parametrize("users", [Config(), Config(1, 2)])
def test_what_differs_each_time_is_no_fault_of_workers(users, capfd):
    class Timed(Base):
        def change(self, values, index):
            return values + time.perf_counter_ns()

    loop = Loop(Timed(), Config(1, 2), users=users, rate=1.0)
    assert len(loop.epoch(ORDERS[0])) == len(ORDERS[0])
    assert not loop.findings
    assert loop.guard.history.tally.reasons == ["each making gives other samples"]
    assert capfd.readouterr().err == ""


def test_workers_that_make_other_samples_are_found():
    """A rare sample asks for its worker, which the script's own configuration has none of."""

    class ByWorker(Base):
        def change(self, values, index):
            return values + (index == 9 and observed_worker() is not None)

    loop = Loop(ByWorker(), Config(2, 2))
    batches = loop.epoch(ORDERS[0])
    assert [batch[1].tolist() for batch in batches] == ORDERS[0]
    assert torch.equal(batches[1][0], next(itertools.islice(DataLoader(Base(), batch_size=8), 1, None))[0])
    assert "batch 2 of epoch 1 differs" in loop.findings[0]
    assert "made in workers" in loop.findings[0]


class AtOnce(Base):
    """Reads at a position that threads share; `wait` lets others come in between."""

    position = 0

    def change(self, values, index):
        self.position = index
        time.sleep(0.002)
        return values + self.position


@pytest.mark.parametrize("workers", [0, 1])
def test_threads_that_get_in_each_others_way_are_found(workers):
    dataset = AtOnce()
    loop = Loop(dataset, Config(workers, 2 if workers else None, fetch_threads=4), Rewrites(threads_until=("",)))
    batches = loop.epoch(ORDERS[0])
    assert loop.findings
    assert "4 threads that make samples" in loop.findings[0]
    assert "it was not delivered" in loop.findings[0]
    expected = list(DataLoader(AtOnce(), batch_size=8))
    assert [batch[0].tolist() for batch in batches] == [batch[0].tolist() for batch in expected]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("is_wrong", [False, True])
def test_batches_whose_operators_are_deferred_are_compared_when_they_are_finished(workers, is_wrong, monkeypatch):
    dataset = Base()
    if is_wrong:
        monkeypatch.setattr("plumb.runtime.deferred.skipped_operators.run", lambda deferred, *_: deferred.batch)
    config = Config(workers, 2 if workers else None, deferred=("mul",))
    deferral = find_deferral(dataset, default_collate, range(8)).deferral
    loop = Loop(dataset, config, Rewrites(deferral=deferral))
    batches = [batch for order in ORDERS[:2] for batch in loop.epoch(order)]
    expected = list(DataLoader(dataset, batch_size=8)) * 2
    assert [batch[0].tolist() for batch in batches] == [batch[0].tolist() for batch in expected]
    assert loop.guard.history.tally.differing == is_wrong
    if is_wrong:
        assert " on batches" in loop.findings[0]
    else:
        assert loop.guard.history.tally.equal == loop.guard.history.tally.checked == 3


# ---- what is right passes


def drawing(values, index, dataset):
    if index % 3 == 0:
        values = values + torch.randn(8) + np.random.random() + random.random()
    return values + dataset.rng.random()


class Drawing(Base):
    def change(self, values, index):
        return drawing(values, index, self)


def mixed(samples):
    values = torch.stack([values for values, _ in samples])
    return values * torch.rand(()), torch.tensor([index for _, index in samples])


@pytest.mark.parametrize("collate_fn", [None, mixed])
@pytest.mark.parametrize("config", [Config(), Config(1, 2), Config(2, 2, True, allocator_reuse=True)])
@pytest.mark.parametrize("users", [Config(), Config(2, 2)])
def test_random_numbers_are_the_same_in_both_makings(config, users, collate_fn, capfd):
    dataset = Drawing()
    loop = Loop(dataset, config, users=users, rate=1.0, collate_fn=collate_fn)
    for order in ORDERS[:2]:
        assert [batch[1].tolist() for batch in loop.epoch(order[:2])] == order[:2]
    tally = loop.guard.history.tally
    assert (tally.checked, tally.equal, tally.reasons) == (4, 4, [])
    assert not loop.findings
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("users", [Config(), Config(2, 2)])
def test_a_generator_that_each_worker_makes_for_itself_is_waited_for(users, capfd):
    """From the second batch on, its state travels with the batch."""

    class Lazy(Base):
        own = None

        def change(self, values, index):
            if self.own is None:
                self.own = np.random.default_rng()
            return values + self.own.random()

    dataset = Lazy()
    if not users.num_workers:
        dataset[0]
    deferral = find_deferral(dataset, default_collate, range(8)).deferral
    del dataset.own
    loop = Loop(dataset, Config(1, 2, True, deferred=("mul",)), Rewrites(deferral=deferral), users=users)
    assert len(loop.epoch(ORDERS[0])) == 4
    tally = loop.guard.history.tally
    assert not loop.findings
    assert loop.guard.history.undecided > 0
    assert tally.checked == tally.equal
    assert bool(tally.equal) == bool(users.num_workers), "this process has no such generator"
    assert capfd.readouterr().err == ""


def test_checks_without_workers_move_no_generator_and_leave_nothing_in_the_dataset():
    class Counting(Drawing):
        def change(self, values, index):
            self.reads += 1
            self.last = float(values[0])
            return super().change(values, index)

    def train(epoch, dataset):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        batches = [[values.tolist() for values, _ in epoch(order)] for order in ORDERS]
        return batches, generator_states([dataset.rng]), dataset.reads, dataset.last

    checked, plain = Counting(), Counting()
    loop = Loop(checked, Config(), rate=1.0)
    expected = train(lambda order: DataLoader(plain, batch_sampler=order), plain)
    assert train(loop.epoch, checked) == expected
    assert loop.guard.history.tally.equal == 12


def test_after_a_difference_the_random_numbers_are_those_of_the_plain_script(monkeypatch):
    class Late(Drawing):
        def change(self, values, index):
            return super().change(values, index) + FLAGS["augmentation"]["is_on"]

    def train(epoch, dataset):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        return [[values.tolist() for values, _ in epoch(order)] for order in ORDERS], generator_states([dataset.rng])

    monkeypatch.setattr("plumb.runtime.fetch.plain_samples", lambda dataset, indices: [dataset[0]] * len(indices))
    checked, plain = Late(), Late()
    loop = Loop(checked, Config())
    assert train(loop.epoch, checked) == train(lambda order: DataLoader(plain, batch_sampler=order), plain)
    assert loop.findings


def test_a_store_that_is_right_is_found_right_and_is_kept(capfd):
    dataset = Base()
    config, rewrites = stored_whole(dataset)
    for each in (config, with_workers(config, 2)):
        loop = Loop(dataset, each, rewrites, rate=1.0)
        for order in ORDERS[:2]:
            loop.epoch(order)
        assert loop.guard.history.tally.equal == 8
        assert not os.path.exists(os.path.join(loop.running.stored.spec.folder, "ended"))
    assert capfd.readouterr().err == ""


@dataclass
class Record:
    values: torch.Tensor
    name: str
    parts: dict

    def pin_memory(self):
        return self


def recorded(samples):
    values = torch.stack([values for values, _ in samples])
    return Record(values, "a record", {"mask": np.ones(3, bool), "more": [(1, 2.5), None, b"x"]})


def test_records_are_compared(capfd):
    loop = Loop(Base(), Config(1, 2), collate_fn=recorded, rate=1.0)
    batches = loop.epoch(ORDERS[0])
    assert all(type(batch) is Record for batch in batches)
    assert loop.guard.history.tally.equal == 4


def sparse(samples):
    return torch.eye(3).to_sparse(), lambda: samples


def partly_sparse(samples):
    return {"sparse": torch.eye(3).to_sparse(), "names": {str(index) for _, index in samples}, "more": samples[0][0]}


def test_what_can_not_be_compared_hides_no_difference_in_the_rest(monkeypatch):
    loop = Loop(Base(), Config(1, 2), collate_fn=partly_sparse, rate=1.0)
    loop.epoch(ORDERS[0])
    assert loop.guard.history.tally.equal == 4
    assert loop.guard.history.tally.reasons == ["parts of its batches can't be compared"]
    assert "no difference (parts of its batches can't be compared)" in str(loop.guard.history.tally)

    class ByProcess(Base):
        here = os.getpid()

        def change(self, values, index):
            return values + (observed_worker() is not None)

    loop = Loop(ByProcess(), Config(1, 2), collate_fn=partly_sparse)
    loop.epoch(ORDERS[0])
    assert "made in workers" in loop.findings[0]


def test_what_can_not_be_compared_is_said_once(capfd):
    loop = Loop(Base(), Config(), collate_fn=sparse, rate=1.0)
    for order in ORDERS:
        loop.epoch(order)
    assert capfd.readouterr().err.count("can't be compared") == 1
    assert "no batch of loader was compared" in str(loop.guard.history.tally)


def test_a_dataset_that_can_only_be_read_where_it_is_goes_unchecked(capfd):
    """It asks a process of its own by a pipe: what a child would read there, this process would miss."""
    asking, answering = os.pipe(), os.pipe()
    server = os.fork()
    if not server:
        os.close(asking[1])
        while number := os.read(asking[0], 8):
            os.write(answering[1], number)
        os._exit(0)
    os.close(asking[0])

    class Asking(Base):
        def change(self, values, index):
            os.write(asking[1], index.to_bytes(8, "little"))
            return values + int.from_bytes(os.read(answering[0], 8), "little")

    loop = Loop(Asking(), Config(), rate=1.0)
    batches = loop.epoch(ORDERS[0])
    os.close(asking[1])
    os.waitpid(server, 0)
    for values, indices in batches:
        base = torch.stack([Base().values(index) for index in indices.tolist()])
        assert torch.equal(values, (base + indices[:, None]) * 2.0)
    err = capfd.readouterr().err
    assert err.count("batches are not checked from here") == 1
    assert "OSError" in err


def test_a_plain_making_that_hangs_is_waited_for_once(monkeypatch, capfd):
    class Hanging(Base):
        here = os.getpid()

        def change(self, values, index):
            while os.getpid() != self.here:
                time.sleep(0.01)
            return values

    monkeypatch.setattr(running_checks, "_UNKNOWN_SECONDS", 0.3)
    loop = Loop(Hanging(), Config(), rate=1.0)
    for order in ORDERS:
        assert len(loop.epoch(order)) == 4
    assert capfd.readouterr().err.count("batches are not checked from here") == 1
    assert loop.guard.history.tally.checked == 0


def test_without_a_batch_size_single_samples_are_checked():
    class Single(Loop):
        def loader(self, batches, config):
            indices = Indices(batches.batches, batches.guard) if hasattr(batches, "guard") else batches
            return DataLoader(self.dataset, sampler=indices, batch_size=None, **config.loader_arguments())

    class Indices:
        def __init__(self, batches, guard):
            self.batches, self.guard = batches, guard

        def __iter__(self):
            return (self.guard.indices(number, index) for number, index in enumerate(self.batches))

        def __len__(self):
            return len(self.batches)

    for config in (Config(), Config(1, 2), Config(fetch_threads=2)):
        loop = Single(Base(), config, Rewrites(threads_until=("",)), rate=1.0)
        assert [batch[1] for batch in loop.epoch(list(range(6)))] == list(range(6))
        assert loop.guard.history.tally.equal == 6


# ---- how often


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_first_batches_are_checked_and_then_as_many_as_cost_little():
    clock = Clock()
    times = CheckTimes(None, clock)
    times.epoch_begins()
    assert [times.wants() for _ in range(2)] == [True, True]
    times.begun()
    assert not times.wants(), "one is on its way"
    times.spent(0.1)
    assert not times.wants()
    clock.now = 0.1 / check_rate.COST_SHARE + 0.001
    assert times.wants()
    times.begun()
    times.spent(1.0)
    times.epoch_begins()
    assert times.wants(), "the first that a store gives"
    assert not times.wants()
    times.epoch_begins()
    assert not times.wants()


def test_a_check_that_never_came_back_is_no_longer_waited_for():
    clock = Clock()
    times = CheckTimes(None, clock)
    times.epoch_begins()
    for _ in range(2):
        assert times.wants()
        times.begun()
    times.epoch_begins()
    assert times.wants()
    times.begun()
    times.epoch_begins()
    clock.now = 1.0
    assert times.wants()


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (0.25, 25), (0.1, 10), (1.0, 100)])
def test_a_share_that_the_user_wants_is_kept(rate, expected):
    times = CheckTimes(rate, Clock())
    times.epoch_begins()
    wanted = [times.wants() for _ in range(100)]
    assert expected <= sum(wanted) <= expected + (check_rate.FIRST_BATCHES if rate else 0)


@pytest.mark.parametrize("text", ["often", "-1", "1.5", "nan", "50%"])
def test_what_is_no_share_is_refused_in_a_line(text, monkeypatch, capfd):
    with pytest.raises(ValueError, match="give a number from 0"):
        parse_rate(text)
    monkeypatch.setenv("PLUMB_CHECK", text)
    monkeypatch.setattr(check_rate, "_said", set())
    with pytest.raises(ValueError):
        asked_rate()
    assert [asked_rate_or_default(), asked_rate_or_default()] == [None, None]
    assert capfd.readouterr().err.count("PLUMB_CHECK") == 1


def test_no_guard_where_the_user_wants_none(monkeypatch):
    loader = DataLoader(Base(), batch_size=8)
    monkeypatch.setenv("PLUMB_CHECK", "0")
    assert running_checks.check_guard(loader, "loader", Config()) is None
    monkeypatch.setenv("PLUMB_CHECK", " ")
    assert running_checks.check_guard(loader, "loader", Config()) is not None
