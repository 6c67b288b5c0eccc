"""What is measured through the user's loop before anything is tuned."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
import weakref

import pytest
import torch
from torch.utils.data import DataLoader

from plumb.core.errors import TuningError, UsersError
from plumb.host import Limits
from plumb.instrument.call_site import Site
from plumb.tuning import in_loop
from plumb.tuning.loader_under_test import LoaderUnderTest
from plumb.tuning.measure.known_loader import KnownLoader
from plumb.tuning.measure.replayed_batches import replayed
from plumb.tuning.measure.training_loop import LoopMeter
from plumb.tuning.options import Options

SLOW_SECONDS, FAST_SECONDS = 0.02, 0.01


class Locked(torch.Tensor):
    """Stands for a tensor in page-locked memory."""


def step_of(monkeypatch, pin, seconds_pageable, seconds_locked, is_used=True):
    """The step that is found of a loop whose device takes so long for a batch of either kind."""
    monkeypatch.setattr(in_loop, "uses_accelerator", lambda: is_used)
    monkeypatch.setattr(in_loop, "is_pinnable", lambda batch: True)
    monkeypatch.setattr("plumb.tuning.measure.replayed_batches.pinned", lambda batch: batch.as_subclass(Locked))
    own = itertools.repeat(torch.zeros(4))
    running = in_loop._step(LoopMeter(4.0, 1e9), own, pin, 0.3, time.perf_counter() + 60)
    return result_of(running, lambda batch: seconds_locked if isinstance(batch, Locked) else seconds_pageable)


def result_of(running, seconds_for):
    """What a course comes to, in a loop that takes so long for each batch."""
    batch = next(running)
    while True:
        time.sleep(seconds_for(batch))
        try:
            batch = running.send(False)
        except StopIteration as stopped:
            return stopped.value


def test_page_locked_batches_are_wanted_where_they_make_the_step_faster(monkeypatch):
    step = step_of(monkeypatch, False, SLOW_SECONDS, FAST_SECONDS)
    assert step.wants_pinned
    assert step.pageable_samples_per_second < step.samples_per_second


@pytest.mark.parametrize(
    ("pin", "pageable", "locked", "is_used"),
    [
        (False, FAST_SECONDS, SLOW_SECONDS, True),
        (False, SLOW_SECONDS, FAST_SECONDS, False),
        (True, SLOW_SECONDS, FAST_SECONDS, True),
    ],
    ids=["they don't", "no device", "they are already"],
)
def test_and_nowhere_else(pin, pageable, locked, is_used, monkeypatch):
    assert not step_of(monkeypatch, pin, pageable, locked, is_used).wants_pinned


class Device:
    """Stands for one that takes so long for a step, behind the loop's back or not; two steps may wait for it."""

    def __init__(self, is_waited_for):
        self._is_waited_for = is_waited_for
        self._done = time.perf_counter()

    def step(self, batch):
        self._done = max(self._done, time.perf_counter()) + SLOW_SECONDS
        self.synchronize(0 if self._is_waited_for else 2)
        return 0.0

    def synchronize(self, ahead=0):
        time.sleep(max(0.0, self._done - ahead * SLOW_SECONDS - time.perf_counter()))


@pytest.mark.parametrize("is_waited_for", [True, False], ids=["waited for in every step", "behind the loop's back"])
def test_pauses_tell_whether_a_loop_waits_for_its_device(is_waited_for, monkeypatch):
    device = Device(is_waited_for)
    monkeypatch.setattr(in_loop, "uses_accelerator", lambda: True)
    monkeypatch.setattr(in_loop, "is_pinnable", lambda batch: False)
    monkeypatch.setattr("plumb.tuning.measure.training_loop.synchronize", device.synchronize)
    running = in_loop._step(LoopMeter(4.0, 1e9), itertools.repeat(torch.zeros(4)), False, 0.5, math.inf)
    assert result_of(running, device.step).blocks is is_waited_for


HOW_FAST = "loader: how fast your loop could go"


@pytest.mark.parametrize(
    ("next_seconds", "slow_seconds", "looks", "waits"),
    [(SLOW_SECONDS, 0.06, 2, True), (SLOW_SECONDS, 0.002, 1, True), (0.0, 0.002, 1, False)],
    ids=["slow in between", "never slow", "never slow, and nothing to wait for"],
)
def test_a_host_that_is_slow_while_the_step_is_measured_hides_no_waiting(
    next_seconds, slow_seconds, looks, waits, monkeypatch
):
    """Whether the loop is seen to wait, and after how many looks, where steps on ready batches are slow at first."""
    said, subjects = [], []

    def tuner(subject, *_):
        subjects.append(subject)
        raise TuningError("as far as this test goes", 1)

    def own():
        while True:
            time.sleep(next_seconds)
            yield torch.zeros(4)

    monkeypatch.setattr(in_loop, "Tuner", tuner)
    loader = DataLoader(torch.zeros(64, 4), batch_size=4)
    known = KnownLoader("loader", Site("train.py", 1, "loader"), weakref.ref(loader), 4)
    tuning = in_loop.TuningWork(Options(1.0, Limits()), lambda event: said.append(event.text))
    running = tuning.run_in_loop(known, loader, LoopMeter(4.0, math.inf), own(), math.inf)
    with pytest.raises(TuningError):
        result_of(running, lambda _: slow_seconds if said.count(HOW_FAST) == 1 and said[-1] == HOW_FAST else 0.002)
    assert said.count(HOW_FAST) == looks
    assert (subjects[0].waiting_share > 0.5) == waits


def test_what_cannot_be_pinned_is_left_where_it_is(monkeypatch):
    monkeypatch.setattr(in_loop, "uses_accelerator", lambda: True)
    running = in_loop._step(LoopMeter(4.0, 1e9), itertools.repeat(torch.zeros(4).to_sparse()), False, 0.1, math.inf)
    assert not result_of(running, lambda batch: FAST_SECONDS).wants_pinned


def test_ready_batches_are_what_they_were_and_copied_only_where_they_were_changed():
    first, second = {"x": torch.arange(3.0), "names": ["a"]}, {"x": torch.zeros(2), "names": []}
    given = replayed([first, second], pin=False)
    one = next(given)
    next(given)
    one["names"].append("b")
    one["more"] = 1
    again = next(given)
    assert again["x"] is one["x"]
    assert (again["names"], list(again)) == (["a"], ["x", "names"])
    again["x"].add_(1)
    next(given)
    assert next(given)["x"].tolist() == [0.0, 1.0, 2.0]
    assert first["x"].tolist() == [0.0, 1.0, 2.0]


def test_a_slow_step_leaves_the_tuning_its_part_of_the_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    loader = DataLoader(torch.zeros(64), batch_size=4, num_workers=2)
    known = KnownLoader("loader", Site("train.py", 1, "loader"), weakref.ref(loader), 4)
    tuning = in_loop.TuningWork(Options(100.0, Limits()), lambda event: None)
    running = tuning._measure_loop(known, loader, LoopMeter(4.0, math.inf), itertools.repeat(torch.zeros(4)), 100.0)
    steps = 0
    try:
        next(running)
        while True:
            # Ten seconds for each step, on a budget of a hundred.
            clock[0] += 10.0
            steps += 1
            running.send(False)
    except StopIteration as stopped:
        before, step = stopped.value
    assert before is not None
    assert step.samples_per_second == pytest.approx(0.4)
    assert clock[0] <= 60.0


class Choosing:
    """Stands for a tuner that meets errors of the dataset, one class after the other, unless it may skip them."""

    def __init__(self, subject):
        self.subject = subject

    def choose(self):
        for error in (KeyError("a"), ValueError("b")):
            if not isinstance(error, self.subject.skips):
                raise UsersError(error)
        return "a choice"


def _subject(loop):
    return LoaderUnderTest("loader", DataLoader(range(8), batch_size=4), 4.0, None, None, skips=loop.skips)


def test_an_error_of_a_sample_is_raised_in_the_loop_which_may_go_on():
    loop = LoopMeter(4.0, math.inf)
    coroutine = in_loop._chosen(Choosing, _subject(loop), loop)
    raised = [next(coroutine).error, next(coroutine).error]
    assert [type(error) for error in raised] == [KeyError, ValueError]
    with pytest.raises(StopIteration) as done:
        next(coroutine)
    tuner, choice = done.value.value
    assert choice == "a choice"
    assert tuner.subject.skips == loop.skips == (KeyError, ValueError)


def test_an_error_that_comes_again_though_the_loop_skips_it_ends_the_tuning():
    loop = LoopMeter(4.0, math.inf, (KeyError, ValueError))
    with pytest.raises(UsersError):
        next(in_loop._chosen(lambda of: Choosing(dataclasses.replace(of, skips=())), _subject(loop), loop))
