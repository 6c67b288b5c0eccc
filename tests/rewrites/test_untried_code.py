"""Rare samples run code that no validation has tried: threads get it only if it changes nothing that they share."""

import contextvars
import os
import sys
import threading
from functools import partial

import numpy as np
import pytest
import torch
from cut_datasets import Indexed

from plumb.core.config import CallStep, Cut
from plumb.host.forked_trial import in_child
from plumb.rewrites.thread_validation import validate_threads

# None of the samples that are tried is this one.
RARE = 1000
COUNT = 0


def made(index):
    return np.full(4, index)


class MovesAHandle(Indexed):
    def __init__(self):
        self.file = open(__file__, "rb")  # noqa: SIM115

    def __getitem__(self, index):
        head = b""
        if index == RARE:
            self.file.seek(index)
            head = self.file.read(4)
        return made(index), head


class FillsScratch(Indexed):
    def __init__(self):
        self.scratch = np.zeros(4)

    def __getitem__(self, index):
        values = made(index)
        if index == RARE:
            self.scratch[:] = index
            values += self.scratch
        return values


class FillsByAnotherName(FillsScratch):
    def __getitem__(self, index):
        scratch = self.scratch
        if index == RARE:
            scratch += index
        return made(index)


class FillsByAFunction(FillsScratch):
    def __getitem__(self, index):
        if index == RARE:
            np.multiply(made(index), 2, out=self.scratch)
        return made(index)


class KeepsThePrevious(Indexed):
    """The line is tried, because its condition is."""

    def __init__(self):
        self.previous = None

    def __getitem__(self, index):
        values = made(index)
        if index == RARE: self.previous = values  # fmt: skip  # noqa: E701
        return values


class KeepsTheFirst(KeepsThePrevious):
    def __getitem__(self, index):
        values = made(index)
        if index == RARE and self.previous is None:
            self.previous = values
        return values


class KeepsItInAMethod(KeepsThePrevious):
    def keep(self, values):
        self.previous = values

    def __getitem__(self, index):
        if index == RARE:
            self.keep(made(index))
        return made(index)


class LooksAtItsThread(Indexed):
    def __getitem__(self, index):
        if index == RARE and threading.current_thread() is not threading.main_thread():
            return made(-index)
        return made(index)


class Counts(Indexed):
    def __getitem__(self, index):
        global COUNT
        if index == RARE:
            COUNT += 1
        return made(index)


class SeldomMovesAHandle(MovesAHandle):
    """The one sample that is tried moves it alone, so that no two threads are seen to share it."""

    def __getitem__(self, index):
        head = b""
        if index == 5:
            self.file.seek(index)
            head = self.file.read(4)
        return made(index), head


class OnlyComputes(Indexed):
    def __init__(self):
        self.factors = [2, 3]

    def scaled(self, values):
        out, notes = np.zeros(4), {}
        for place, factor in enumerate(self.factors):
            out[place] += factor
            notes.update({place: factor})
        found = [notes]
        found.append(notes)
        with open(__file__, "rb") as file:
            file.seek(3)
            notes["head"] = file.read(3)
        return torch.from_numpy(values * out).add_(len(notes)).numpy()

    def __getitem__(self, index):
        values = made(index)
        if index == RARE:
            try:
                values = self.scaled(values)
                values[0] = 7
            except OSError as error:
                print("unreadable", error, file=sys.stderr)
                raise ValueError(self.factors.pop()) from error
        return values


class Transforms(Indexed):
    """Each sample's own dictionary goes through functions, which add to it."""

    def change(self, target, times=0, **more):
        if "masks" in target:
            times += 1
            target["masks"] = times
            more.update(target)
        return target

    def __getitem__(self, index):
        return self.change({"image": made(index)})


class TransformsASharedValue(Transforms):
    def __init__(self):
        self.target = {"image": made(0)}

    def __getitem__(self, index):
        return self.change(self.target), index


class TransformsAView(FillsScratch):
    def change(self, values):
        if values[0] == RARE:
            values += 1

    def __getitem__(self, index):
        self.change(self.scratch[1:3])
        return made(index)


class MakesAClient(Indexed):
    """The process that tries it has the client already."""

    def __init__(self):
        self.file = self.pid = None

    def connect(self):
        path = os.path.abspath(__file__)
        self.file, self.pid = os.open(path, os.O_RDONLY), os.getpid()

    @property
    def client(self):
        if self.file is None or self.pid is None:
            self.connect()
        return self.file

    def __getitem__(self, index):
        return os.pread(self.client, 4, index)


class MakesAClientHere(MakesAClient):
    def __getitem__(self, index):
        if not hasattr(self, "mine"):
            self.mine = os.open(__file__, os.O_RDONLY)
        return os.pread(self.mine, 4, index)


class MakesAClientForEachKey(Indexed):
    def __init__(self):
        self.clients = {}

    def __getitem__(self, index):
        key = index % 2
        if key not in self.clients:
            self.clients[key] = os.open(__file__, os.O_RDONLY)
        return os.pread(self.clients[key], 4, index)


UNSAFE = {
    MovesAHandle: "may change MovesAHandle.file",
    FillsScratch: "may change FillsScratch.scratch",
    FillsByAnotherName: "may change scratch",
    FillsByAFunction: "may change FillsByAFunction.scratch",
    KeepsThePrevious: "may change KeepsThePrevious.previous",
    KeepsTheFirst: "may change KeepsTheFirst.previous",
    KeepsItInAMethod: "may change KeepsItInAMethod.previous",
    LooksAtItsThread: "look at their thread by threading.current_thread",
    Counts: "may change COUNT",
    TransformsASharedValue: "may change target",
    TransformsAView: "may change values",
    SeldomMovesAHandle: "may change SeldomMovesAHandle.file",
}
SAFE = (OnlyComputes, Transforms, MakesAClient, MakesAClientHere, MakesAClientForEachKey)


def cut_at(kind, name):
    place = f"{kind.__module__}:{kind.__qualname__}.__getitem__#0"
    return Cut(name, (CallStep("plumb:sample#0", kind.__name__), CallStep(place, name)))


@pytest.mark.parametrize("kind", UNSAFE)
def test_code_that_was_not_tried_and_may_change_what_threads_share_is_refused(kind):
    reason = validate_threads(kind(), range(12), 4)
    assert reason.startswith(f"samples that were not tried {UNSAFE[kind]} (test_untried_code.py:")


CONTEXT = contextvars.ContextVar("factor", default=1)


class ReadsItsContext(Indexed):
    def __getitem__(self, index):
        if index == RARE:
            CONTEXT.set(index)
        return made(index * CONTEXT.get())


def test_what_each_thread_has_its_own_value_of_is_refused():
    assert "context variable" in validate_threads(ReadsItsContext(), range(12), 4)


def test_threads_up_to_a_cut_are_refused_alike():
    reason = validate_threads(KeepsThePrevious(), range(12), 4, cut_at(KeepsThePrevious, "made"))
    assert "may change KeepsThePrevious.previous" in reason


@pytest.mark.parametrize("kind", SAFE)
def test_branches_that_only_compute_and_set_ups_are_not_refused(kind):
    dataset = kind()
    [dataset[index] for index in range(2)]
    assert validate_threads(dataset, range(12), 4) is None


def test_a_set_up_that_is_tried_is_not_refused():
    class Loads(Indexed):
        def __init__(self):
            self.state = "new"

        def __getitem__(self, index):
            if self.state == "new":
                self.table, self.state = list(range(12)), "read"
            return self.table[index]

    def forget(dataset):
        dataset.state = "new"

    dataset = Loads()
    process = partial(after, partial(forget, dataset))
    assert validate_threads(dataset, range(12), 4, process=process) is None
    assert "may change Loads.table" in validate_threads(dataset, range(12), 4)


def after(forget, work, seconds):
    def both():
        forget()
        return work()

    return in_child(both, seconds)
