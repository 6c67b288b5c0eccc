"""What is measured through the user's loop before anything is tuned."""

from __future__ import annotations

import itertools
import math
import time
import weakref

import pytest
import torch

from plumb import course
from plumb.loop import Loop, ready

SLOW_SECONDS, FAST_SECONDS = 0.02, 0.01


class Locked(torch.Tensor):
    """Stands for a tensor in page-locked memory."""


def step_of(monkeypatch, pin, seconds_pageable, seconds_locked, is_used=True):
    """The step that is found of a loop whose device takes so long for a batch of either kind."""
    monkeypatch.setattr(course, "uses_accelerator", lambda: is_used)
    monkeypatch.setattr(course, "can_be_pinned", lambda batch: True)
    monkeypatch.setattr("plumb.loop.pinned", lambda batch: batch.as_subclass(Locked))
    own = itertools.repeat(torch.zeros(4))
    running = course._step(Loop(4.0, 1e9), own, pin, 0.3, time.perf_counter() + 60)
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
    monkeypatch.setattr(course, "uses_accelerator", lambda: True)
    monkeypatch.setattr(course, "can_be_pinned", lambda batch: False)
    monkeypatch.setattr("plumb.loop.synchronize", device.synchronize)
    running = course._step(Loop(4.0, 1e9), itertools.repeat(torch.zeros(4)), False, 0.5, math.inf)
    assert result_of(running, device.step).blocks is is_waited_for


def test_what_cannot_be_pinned_is_left_where_it_is(monkeypatch):
    monkeypatch.setattr(course, "uses_accelerator", lambda: True)
    running = course._step(Loop(4.0, 1e9), itertools.repeat(torch.zeros(4).to_sparse()), False, 0.1, math.inf)
    assert not result_of(running, lambda batch: FAST_SECONDS).wants_pinned


def test_ready_batches_are_what_they_were_and_copied_only_where_they_were_changed():
    first, second = {"x": torch.arange(3.0), "names": ["a"]}, {"x": torch.zeros(2), "names": []}
    given = ready([first, second], pin=False)
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


def test_the_tuned_loader_s_first_batch_is_held_by_the_loop_alone():
    """Shared memory is counted to the last batch."""

    class Batch:
        pass

    first, second = [Batch()], Batch()
    held = weakref.ref(first[0])
    batches = course._handing_over(first, iter([second]))
    given = next(batches)
    assert given is held()
    del given
    assert held() is None
    assert list(batches) == [second]
