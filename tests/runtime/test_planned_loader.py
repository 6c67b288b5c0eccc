"""A loader on a plan: what the plan's configuration breaks on, the user's own reads again, and its answer counts."""

import copy
import functools
import gc
import itertools
import os
import pickle
import signal
import threading
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

from plumb.core.config import Config
from plumb.runtime.epoch import epoch_iterator
from plumb.runtime.guards.guard import Finding, IdleGuard, Verdict
from plumb.runtime.loader_attributes import plans_attributes, set_attributes
from tests.parts.observers import observed_process, observed_worker
from tests.runtime.test_order_programs import ByLoss, planned_on

LENGTH, BATCH = 48, 4
WORKERS = Config(2, 2)
LASTING = Config(2, 2, persistent_workers=True)


class Rows(Dataset):
    """Each sample says who made it; `act` happens in workers, to the sample of `index` 21."""

    def __init__(self, act=None):
        self.act = act

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        info = observed_worker()
        if info is not None and index == 21 and self.act is not None:
            self.act()
        return torch.tensor([index, info is not None, observed_process()])


class Run:
    """A loader on a plan, and the lines that are said of it."""

    def __init__(self, dataset, config=WORKERS, users=None, kind=DataLoader, compared=(), **arguments):
        users = users or Config()
        self.said = []
        self.loader = kind(dataset, **{"batch_size": BATCH, **users.loader_arguments(), **arguments})
        self.planned = planned_on(self.loader, config, users, compared)

    def __iter__(self):
        return self.planned.start_unseen(self.loader, lambda: iter(self.loader), self.said.append)


def indices(batches):
    return [index for batch in batches for index in batch[:, 0].tolist()]


def made_in_workers(batches):
    return {bool(flag) for batch in batches for flag in batch[:, 1].tolist()}


def test_an_epoch_is_read_by_the_plan():
    run = Run(Rows())
    batches = list(run)
    assert indices(batches) == list(range(LENGTH))
    assert made_in_workers(batches) == {True}
    assert run.said == []


def raises():
    raise ValueError("no device in a worker")


def dies():
    os.kill(observed_process(), signal.SIGKILL)


def hangs():
    time.sleep(600)


@pytest.mark.parametrize(
    ("act", "why"), [(raises, "no device in a worker"), (dies, "exited unexpectedly"), (hangs, "delivered nothing")]
)
@pytest.mark.parametrize("config", [WORKERS, LASTING], ids=["new", "lasting"])
def test_what_breaks_in_workers_is_read_again_without_a_word_lost(act, why, config, monkeypatch):
    monkeypatch.setattr(epoch_iterator, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(epoch_iterator, "PATIENCE_BATCHES", 0.0)
    monkeypatch.setenv("PLUMB_CHECK", "0")
    run = Run(Rows(act), config)
    first, second = list(run), list(run)
    assert indices(first) == indices(second) == list(range(LENGTH))
    assert made_in_workers(first) == {True, False}
    assert made_in_workers(second) == {False}, "for good"
    (line,) = run.said
    assert why in line
    assert line.endswith("from here on it runs as the script has it")


class Changing(Rows):
    """Samples of the version that the process has; that of `index` 21 can't be made."""

    version = 0

    def __getitem__(self, index):
        if index == 21:
            raise ValueError("a damaged row")
        return torch.tensor([index, self.version, observed_process()])


def told_of(epoch, dataset, processes):
    """An epoch as a loop has it that goes on after errors, and changes the dataset in each step."""
    told = []
    while True:
        try:
            batch = next(epoch)
        except StopIteration:
            return told
        except ValueError as error:
            told.append(str(error))
        else:
            told.append(batch[:, :2].tolist())
            processes.update(batch[:, 2].tolist())
        dataset.version += 1


@pytest.mark.slow
@pytest.mark.parametrize(("lasts", "config"), [(False, WORKERS), (False, LASTING), (True, LASTING)])
def test_a_sample_that_fails_leaves_the_plan_s_workers_at_work_where_the_user_s_own_would_go_on(lasts, config):
    users = Config(1, 2, persistent_workers=lasts)
    plain, run = Changing(), Run(Changing(), config, users)
    loader, processes = DataLoader(plain, batch_size=BATCH, **users.loader_arguments()), set()
    for _ in range(2):
        expected = told_of(iter(loader), plain, set())
        assert told_of(iter(run), run.loader.dataset, processes) == expected
        assert sum(isinstance(each, str) for each in expected) == 1
    assert all("workers are started again" in line for line in run.said)
    assert os.getpid() not in processes


@pytest.mark.parametrize("bad", ["a lambda", "a lock", "a local class"])
def test_batches_that_can_t_be_sent_lead_to_the_user_s_own_configuration(bad, monkeypatch):
    monkeypatch.setenv("PLUMB_CHECK", "0")

    class Local:
        pass

    values = {"a lambda": lambda: 1, "a lock": threading.Lock(), "a local class": Local()}

    class Odd(Rows):
        def __getitem__(self, index):
            return index, values[bad]

    run = Run(Odd(), collate_fn=list)
    begun = time.monotonic()
    assert [index for batch in run for index, _ in batch] == list(range(LENGTH))
    assert time.monotonic() - begun < 30
    assert len(run.said) == 1
    assert "pickle" in run.said[0]


class Broken(Rows):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def __getitem__(self, index):
        if index == 21:
            raise LookupError(f"no sample {index}")
        return super().__getitem__(index)


@pytest.mark.slow
def test_an_error_of_the_user_s_comes_once_where_it_would_and_the_plan_goes_on():
    """The loop may catch it, and go on behind the batch, as with torch."""
    run = Run(Broken())
    iterator = iter(run)
    seen = list(itertools.islice(iterator, 5))
    with pytest.raises(LookupError) as raised:
        next(iterator)
    assert str(raised.value) == "no sample 21", "it is not a worker's"
    seen += iterator
    assert indices(seen) == [index for index in range(LENGTH) if index // BATCH != 5]
    assert run.said == []


def test_a_sampler_that_the_loop_teaches_is_asked_in_time():
    def order(start, sampler):
        seen = []
        for batch in start():
            seen += batch[:, 0].tolist()
            sampler.weights[batch[:, 0]] *= 0.5
        return seen

    plain, other = ByLoss(), ByLoss()
    loader = DataLoader(Rows(), batch_size=BATCH, sampler=plain)
    run = Run(Rows(), sampler=other)
    assert order(lambda: iter(run), other) == order(lambda: iter(loader), plain)
    (line,) = run.said
    assert "the script changes ByLoss.weights while an epoch runs" in line


class Late(Sampler):
    """Is taught late, and tells how far ahead of the loop it was asked."""

    def __init__(self):
        self.weights = torch.ones(LENGTH)

    def __len__(self):
        return LENGTH

    def __iter__(self):
        yield from range(LENGTH)


def test_a_sampler_that_the_loop_leaves_alone_is_asked_ahead_after_some_batches(monkeypatch):
    monkeypatch.setenv("PLUMB_CHECK", "0")
    asked = itertools.count()

    class Counting(Late):
        def __iter__(self):
            for index in range(LENGTH):
                next(asked)  # what is counted in C is no state that can be seen
                yield index

    run = Run(Rows(), Config(2, 3), sampler=Counting())
    ahead = [int(repr(asked)[6:-1]) - BATCH * (number + 1) for number, _ in enumerate(run)]
    assert ahead[:3] == [0, 0, 0]
    assert max(ahead) > BATCH
    assert run.said == []


def test_a_sampler_that_is_taught_late_is_asked_in_time_from_then_on(monkeypatch):
    monkeypatch.setenv("PLUMB_CHECK", "0")
    sampler = Late()
    run = Run(Rows(), sampler=sampler)
    for number, batch in enumerate(run):
        if number >= 7:
            sampler.weights[batch[:, 0]] += 1
    assert len(run.said) == 1
    assert "Late.weights" in run.said[0]
    assert made_in_workers(list(run)) == {False}


class Endless(Sampler):
    """Begins its batches anew for ever, as loaders do whose workers outlive epochs."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        while True:
            yield from iter(self.batches)


@pytest.mark.parametrize("users", [Config(), Config(2, 2)], ids=str)
def test_a_sampler_that_begins_anew_by_itself_draws_each_order_in_time(users):
    """The loop draws from the same generator between two rounds, as the next epoch of a validation loader does."""

    def order(start):
        torch.manual_seed(0)
        iterator, seen = start(), []
        for _ in range(3 * LENGTH // BATCH):
            seen += next(iterator)[:, 0].tolist()
            torch.rand(())
        return seen

    batches = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(range(LENGTH)), BATCH, False)
    arguments = {"batch_size": 1, "batch_sampler": Endless(batches)}
    plain = DataLoader(Rows(), **arguments, **users.loader_arguments())
    run = Run(Rows(), Config(3, 4), users, **arguments)
    expected = order(functools.partial(iter, plain))
    assert order(functools.partial(iter, run)) == expected
    assert bool(run.said) == (users.num_workers == 0)
    if run.said:
        assert "doesn't say how many batches it gives" in run.said[0]


def test_nothing_is_drawn_and_nobody_started_before_the_first_batch():
    run = Run(Rows(), shuffle=True)
    torch.manual_seed(0)
    expected = list(DataLoader(Rows(), batch_size=BATCH, shuffle=True))
    torch.manual_seed(0)
    iterator = iter(run)
    assert iterator._workers == []
    assert indices(iterator) == indices(expected)


def test_it_is_one_of_torch_s_iterators_to_all_who_look(monkeypatch):
    monkeypatch.setenv("PLUMB_CHECK", "0")
    run = Run(Rows())
    iterator, plain = iter(run), iter(DataLoader(Rows(), batch_size=BATCH))
    assert isinstance(iterator, _BaseDataLoaderIter)
    assert len(iterator) == len(plain)
    for again in (pickle.dumps, copy.deepcopy):
        errors = []
        for each in (iterator, plain):
            with pytest.raises(NotImplementedError) as raised:
                again(each)
            errors.append(raised.value.args)
        assert errors[0] == errors[1]
    next(iterator)
    next(plain)
    assert iterator._num_yielded == plain._num_yielded == 1
    assert iterator._next_data()[:, 0].tolist() == plain._next_data()[:, 0].tolist()
    assert iterator._dataset is run.loader.dataset
    pids = [worker.pid for worker in iterator._workers]
    assert len(pids) == 2
    iterator._shutdown_workers()
    assert next(iterator, None) is None
    assert all(not os.path.exists(f"/proc/{pid}/fd") or _is_zombie(pid) for pid in pids)


def _is_zombie(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("skipped", [0, 3])
def test_batches_that_a_script_skips_on_the_sampler_s_iterator_are_not_delivered(skipped):
    """Scripts that resume an epoch do so."""
    run = Run(Rows())
    iterator = iter(run)
    for _ in range(skipped):
        next(iterator._sampler_iter)
    assert indices(iterator) == list(range(BATCH * skipped, LENGTH))


def test_workers_of_the_plan_last_as_long_as_the_loader():
    run = Run(Rows(), LASTING)
    pids = [{pid for batch in run for pid in batch[:, 2].tolist()} for _ in range(2)]
    assert pids[0] == pids[1]
    iterator = iter(run)
    next(iterator)
    others = {pid for batch in run for pid in batch[:, 2].tolist()}
    assert not others & pids[0], "the first are at work for another epoch"
    assert len(list(iterator)) == LENGTH // BATCH - 1
    del iterator
    # By the collector of cycles they would end seconds later.
    gc.disable()
    run.loader = run.planned = None
    gc.enable()
    until = time.monotonic() + 10
    while time.monotonic() < until and any(os.path.exists(f"/proc/{pid}") for pid in (*pids[0], *others)):
        time.sleep(0.02)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in (*pids[0], *others))


def test_the_user_s_lasting_iterator_is_one_and_the_same():
    users = Config(1, 2, persistent_workers=True)
    run = Run(Rows(), Config(2, 4, persistent_workers=True), users)
    first = iter(run)
    next(first)
    assert iter(run) is first
    assert indices(first) == list(range(LENGTH))


def test_what_is_exchanged_on_the_loader_reaches_workers_that_last(monkeypatch):
    monkeypatch.setenv("PLUMB_CHECK", "0")
    run = Run(Rows(), LASTING)
    list(run)
    run.loader.collate_fn = list
    assert type(next(iter(run))) is list


class Stream(IterableDataset):
    def __iter__(self):
        info = observed_worker()
        return iter(range(info.id, 20, info.num_workers) if info else range(20))


class Whole(IterableDataset):
    def __iter__(self):
        return iter(range(20))


@pytest.mark.slow
@pytest.mark.parametrize("start", ["start", "start_unseen"])
@pytest.mark.parametrize(
    ("users", "compared", "is_used"), [(0, (), False), (0, (0, 2), True), (1, (0, 2), False), (2, (), True)]
)
def test_a_stream_is_shared_out_only_where_that_was_compared(users, compared, is_used, start):
    """Each worker delivers all of a stream that does not share itself out."""
    users = Config(users, 2) if users else Config()
    run = Run(Stream() if is_used else Whole(), Config(2, 2, persistent_workers=True), users, compared=compared)
    if start == "start":
        set_attributes(run.loader, plans_attributes(run.loader, run.planned._config))
    epochs = [getattr(run.planned, start)(run.loader, lambda: iter(run.loader), run.said.append) for _ in range(2)]
    for epoch in epochs:
        assert sorted(index for batch in epoch for index in batch.tolist()) == list(range(20))
    assert [line for line in run.said if "more than once" in line] == run.said
    assert bool(run.said) is not is_used


class OwnWay(DataLoader):
    """Makes its iterator by itself."""

    def _get_iterator(self):
        return super()._get_iterator()


@pytest.mark.parametrize(
    "run",
    [
        lambda: Run(Stream(), compared=(0, 2)),
        lambda: Run(Rows(), Config(2, 2, in_order=False), Config(1, 2, in_order=False), in_order=False),
        lambda: Run(Rows(), kind=OwnWay),
    ],
)
def test_what_has_no_order_by_indices_stays_on_torch_s_own_iterator(run):
    run = run()
    iterator = iter(run)
    assert type(iterator).__module__ == "torch.utils.data.dataloader"
    values = [value[0] if isinstance(value, list) else value for batch in iterator for value in batch.tolist()]
    assert sorted(values) in (list(range(20)), list(range(LENGTH)))


class Finds(IdleGuard):
    """Finds something at one batch, before or behind it."""

    def __init__(self, verdict, at, hook):
        self.finding, self.at = Finding(verdict, "it is another"), at
        setattr(self, hook, getattr(self, f"_{hook}"))
        self.wanted = 0

    def _epoch_begins(self, loader):
        return self.finding

    def _batch_wanted(self, loader):
        self.wanted += 1
        return self.finding if self.wanted == self.at else None

    def _batch_read(self, number, indices, batch):
        return batch, self.finding if number == self.at else None


@pytest.mark.parametrize("hook", ["batch_wanted", "batch_read"])
@pytest.mark.parametrize("verdict", [Verdict.GO_ON, Verdict.RENEW, Verdict.PLAIN])
def test_findings_in_mid_epoch_cost_no_batch(verdict, hook, monkeypatch):
    monkeypatch.setenv("PLUMB_CHECK", "0")
    run = Run(Rows(), LASTING)
    run.planned._run.guards.add(Finds(verdict, 5, hook))
    batches = list(run)
    assert indices(batches) == list(range(LENGTH))
    pids = {batch[0, 2].item() for batch in batches if batch[0, 1]}
    # The same finding for the same batch again and again is no reason to start workers for ever.
    is_plain = verdict == Verdict.PLAIN or (verdict == Verdict.RENEW and hook == "batch_read")
    assert made_in_workers(batches) == ({True, False} if is_plain else {True})
    if verdict == Verdict.RENEW and hook == "batch_wanted":
        assert len(pids) == 4
        assert run.said == ["it is another: workers are started again, so that they see it"]
    assert len(run.said) == (verdict != Verdict.GO_ON) + (verdict == Verdict.RENEW and hook == "batch_read")


def test_a_finding_at_the_start_of_an_epoch_renews_workers_that_last(monkeypatch):
    monkeypatch.setenv("PLUMB_CHECK", "0")
    run = Run(Rows(), LASTING)
    first = {pid for batch in run for pid in batch[:, 2].tolist()}
    run.planned._run.guards.add(Finds(Verdict.RENEW, 0, "epoch_begins"))
    second = {pid for batch in run for pid in batch[:, 2].tolist()}
    assert not first & second


class Marked(list):
    pass


class Wraps(IdleGuard):
    def __init__(self):
        self.read = []

    def indices(self, number, indices):
        return Marked([number, *indices])

    def batch_read(self, number, indices, batch):
        self.read.append((number, batch[0, 0].item()))
        return batch[1:], None


def test_guards_may_wrap_what_is_read(monkeypatch):
    monkeypatch.setenv("PLUMB_CHECK", "0")
    run = Run(Rows())
    guard = Wraps()
    run.planned._run.guards.add(guard)
    assert indices(run) == list(range(LENGTH))
    assert guard.read == [(number, number) for number in range(LENGTH // BATCH)]


class Drawing(Rows):
    def __getitem__(self, index):
        torch.rand(())
        return super().__getitem__(index)


def test_samples_made_in_place_of_the_user_s_workers_leave_the_training_s_generators_alone():
    users = Config(1, 2)
    run = Run(Drawing(), Config(fetch_threads=2), users, shuffle=True)
    plain = DataLoader(Drawing(), batch_size=BATCH, shuffle=True, **users.loader_arguments())
    seen = []
    for start in (functools.partial(iter, plain), functools.partial(iter, run)):
        torch.manual_seed(3)
        seen.append([(indices(start()), torch.rand(()).item()) for _ in range(2)])
    assert seen[0] == seen[1]
