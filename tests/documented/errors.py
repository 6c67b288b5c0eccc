"""Exceptions, wherever the user's code raises them; workers that hang or die; and that the loader works afterwards."""

from __future__ import annotations

import functools
import os
import signal
import tempfile
import time

import torch
from documented.case import NONE, PERSISTENT, TWO, case, raised, shown
from documented.data import Failing, Numbers, Once, Stream
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from plumb.core.config import Config

# A loader whose code reads its worker would run as torch's, without what a plan does about workers that fail.
observed_worker, observed_process = functools.partial(get_worker_info), functools.partial(os.getpid)


class TwoArgumentsError(Exception):
    """Can't be made again from a message alone."""

    def __init__(self, code, place):
        super().__init__(f"code {code} at {place}")
        self.code = code


class ReadError(OSError):
    """A type of the user's own that a message alone can make."""


def until_it_fails(loader):
    """The batches before the exception, the exception, and whether the iterator goes on after it."""
    batches, iterator = [], iter(loader)
    error = raised(lambda: batches.extend(shown(batch) for batch in iterator))
    return batches, error, raised(lambda: next(iterator))


@case((NONE, PERSISTENT), (TWO, PERSISTENT), (TWO, NONE), like_torch=("errors",))
def from_a_sample(given):
    before, errors, types = [], [], []
    for error in (ValueError("bad sample"), KeyError("name"), IndexError(7), ReadError("no such")):
        loader = DataLoader(Failing(error), batch_size=4, **given)
        batches, error, after = until_it_fails(loader)
        before.append(batches)
        errors.append((error, after))
        types.append(error["type"])
    return {"before": before, "errors": errors, "types": types}


@case((NONE, TWO), (TWO, NONE), like_torch=("error",))
def of_a_type_that_needs_more_than_a_message(given):
    loader = DataLoader(Failing(TwoArgumentsError(5, "here")), batch_size=4, **given)
    return {"error": until_it_fails(loader)}


class Short(Numbers):
    """Says a greater length than it has."""

    def __getitem__(self, index):
        return [torch.tensor(number) for number in range(6)][index]


@case((NONE, PERSISTENT), (TWO, NONE), like_torch=("error",))
def from_an_index_that_is_out_of_range(given):
    loader = DataLoader(Short(), batch_size=4, **given)
    before, *error = until_it_fails(loader)
    return {"before": before, "error": error, "type": error[0]["type"]}


def fail_at_five(samples):
    if 5 in samples:
        raise RuntimeError("can't collate 5")
    return torch.stack(samples)


@case((NONE, PERSISTENT), (TWO, NONE), like_torch=("error",))
def from_collate(given):
    loader = DataLoader(Numbers(), batch_size=4, collate_fn=fail_at_five, **given)
    before, *error = until_it_fails(loader)
    return {"before": before, "error": error, "type": error[0]["type"]}


class FailingSampler(Sampler):
    """Raises when it is asked, or in the middle."""

    def __init__(self, at):
        self.at = at

    def __len__(self):
        return 10

    def __iter__(self):
        if self.at is None:
            raise KeyError("no order")
        return (self.number(index) for index in range(10))

    def number(self, index):
        if index == self.at:
            raise KeyError(f"no index {index}")
        return index


@case((NONE, TWO), (TWO, PERSISTENT), (TWO, NONE))
def from_a_sampler_that_is_asked(given):
    loader = DataLoader(Numbers(), batch_size=4, sampler=FailingSampler(None), **given)
    return {"errors": [raised(lambda: list(loader)) for _ in range(2)]}


@case((NONE, TWO), (TWO, Config(2, 1, persistent_workers=True)), (TWO, NONE), like_torch=("before",))
def from_a_sampler_in_the_middle(given):
    loader = DataLoader(Numbers(), batch_size=4, sampler=FailingSampler(9), **given)
    before = []
    error = raised(lambda: before.extend(shown(batch) for batch in loader))
    return {"before": before, "error": error}


def refuse(worker_id):
    raise LookupError(f"worker {worker_id} has nothing to do")


@case((TWO, Config(2, 4)), (TWO, PERSISTENT))
def from_worker_init_fn(given):
    loader = DataLoader(Numbers(), batch_size=4, worker_init_fn=refuse, **given)
    return {"errors": [raised(lambda: next(iter(loader))) for _ in range(2)]}


class FailingStream(Stream):
    """Ends with an exception instead."""

    def __iter__(self):
        yield from super().__iter__()
        raise ConnectionError("the server went away")


@case((TWO, PERSISTENT))
def from_a_stream(given):
    loader = DataLoader(FailingStream(), batch_size=4, **given)
    before, error, _ = until_it_fails(loader)
    return {"before": before, "error": error}


@case((NONE, PERSISTENT), (TWO, NONE))
def in_the_loop_s_own_body(given):
    loader = DataLoader(Numbers(), batch_size=4, **given)

    def loop():
        for batch in loader:
            raise ZeroDivisionError(str(batch))

    return {"errors": [raised(loop) for _ in range(2)], "then": [shown(batch) for batch in loader]}


class FailingLength(Numbers):
    """Can't say its length."""

    def __len__(self):
        raise PermissionError("no length")


class Unsized(Dataset):
    """Has no length."""

    def __getitem__(self, index):
        return index


@case((NONE, PERSISTENT))
def from_a_length(given):
    def shuffled():
        loader = DataLoader(Unsized(), batch_size=4, shuffle=True, **given)
        return list(loader)

    def in_order(data):
        loader = DataLoader(data, batch_size=4, **given)
        return list(loader)

    def length():
        loader = DataLoader(Unsized(), batch_size=4, **given)
        return len(loader)

    return {
        "unsized": [raised(shuffled), raised(lambda: in_order(Unsized())), raised(length)],
        "failing": raised(lambda: in_order(FailingLength())),
    }


class Stuck(Numbers):
    """The first worker that comes to index 5 is stuck there for a while."""

    def __init__(self, first):
        super().__init__()
        self.first = first

    def __getitem__(self, index):
        if observed_worker() and index == 5 and self.first():
            time.sleep(1.5)
        return torch.tensor(index)


@case((TWO, Config(2, 4)), (TWO, PERSISTENT), instead={"error": {"type": None}})
def a_worker_that_is_stuck(given):
    with tempfile.TemporaryDirectory() as folder:
        loader = DataLoader(Stuck(Once(folder + "/once")), batch_size=4, timeout=0.5, **given)
        error = raised(lambda: list(loader))
        return {"error": error, "then": [shown(batch) for batch in loader], "timeout": loader.timeout}


class Killed(Stuck):
    """The first worker that comes to index 5 is killed there."""

    def __getitem__(self, index):
        if observed_worker() and index == 5 and self.first():
            os.kill(observed_process(), signal.SIGKILL)
        return index


@case((TWO, Config(2, 4)), (TWO, PERSISTENT), instead={"error": None})
def a_worker_that_is_killed(given):
    with tempfile.TemporaryDirectory() as folder:
        loader = DataLoader(Killed(Once(folder + "/once")), batch_size=4, collate_fn=list, **given)
        error = raised(lambda: list(loader))
        return {"error": error["type"], "then": [shown(batch) for batch in loader]}
