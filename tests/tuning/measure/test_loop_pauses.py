"""What a loop does between two batches besides training is neither a step nor waiting for data. On a virtual clock."""

import itertools
import math
import weakref

import pytest
import torch
from torch.utils.data import DataLoader

from plumb.core.errors import TuningError
from plumb.host import Limits
from plumb.instrument.call_site import Site
from plumb.tuning import in_loop
from plumb.tuning.loader_under_test import TrainingStep
from plumb.tuning.loop_results import reported_waiting_share, unchanged_loop, waiting_share
from plumb.tuning.measure.known_loader import KnownLoader
from plumb.tuning.measure.loop_pauses import LoopPauses
from plumb.tuning.measure.throughput import Chunk
from plumb.tuning.measure.training_loop import LoopMeter, LoopReading
from plumb.tuning.options import Options


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def result_in_loop(running, clock, step_seconds):
    """What a measurement comes to in a loop whose steps take so long, by their number."""
    batch = next(running)
    for number in itertools.count():
        clock[0] += step_seconds(number)
        try:
            batch = running.send(False)
        except StopIteration as stopped:
            return stopped.value
    return batch


def batches(clock, seconds, ahead=0):
    """Batches that take so long each, `ahead` of which are ready after a time that suffices to make them."""
    last, ready = clock[0], 0.0
    while True:
        ready = min(ready + (clock[0] - last) / seconds, float(ahead))
        clock[0] += seconds * max(0.0, 1 - ready)
        ready = max(0.0, ready - 1)
        last = clock[0]
        yield torch.zeros(4)


@pytest.mark.parametrize("at", [0, 1, 2, 7, 30])
def test_a_loop_that_validates_once_does_not_wait_for_data(at, clock, monkeypatch):
    """Three seconds after one of the first steps; the loop waits for 0.1 % of its time otherwise."""
    subjects = []

    def tuner(subject, *_):
        subjects.append(subject)
        raise TuningError("as far as this test goes", 1)

    monkeypatch.setattr(in_loop, "Tuner", tuner)
    loader = DataLoader(torch.zeros(64, 4), batch_size=4)
    known = KnownLoader("loader", Site("train.py", 1, "loader"), weakref.ref(loader), 4)
    loop = LoopMeter(4.0, math.inf)
    tuning = in_loop.TuningWork(Options(40.0, Limits()), lambda event: None)
    running = tuning.run_in_loop(known, loader, loop, batches(clock, 1e-5), 40.0)
    with pytest.raises(TuningError):
        result_in_loop(running, clock, lambda number: 3.0 if number == at else 0.01)
    assert subjects[0].waiting_share < 0.01
    assert subjects[0].step.samples_per_second == pytest.approx(400, rel=0.01)


@pytest.mark.parametrize(
    ("every", "long_seconds", "rate"),
    [(50, 2.0, 400), (4, 0.25, 4 / 0.07), (10, 0.15, 4 / 0.024)],
    ids=["a checkpoint now and then", "each fourth step is an optimizer's", "short ones"],
)
def test_what_comes_again_after_a_few_batches_is_part_of_the_step(every, long_seconds, rate, clock):
    loop = LoopMeter(4.0, math.inf)
    running = loop.measure(batches(clock, 1e-6), 1, 20.0, math.inf, 1.0)
    reading = result_in_loop(running, clock, lambda number: long_seconds if number % every == every - 1 else 0.01)
    whole = sum(chunk.samples for chunk in reading.chunks) / sum(chunk.seconds for chunk in reading.chunks)
    assert whole == pytest.approx(rate, rel=0.05)


def test_batches_that_were_made_during_a_pause_do_not_count(clock):
    """Four batches are ready after it; the source gives one in 50 ms."""
    loop = LoopMeter(4.0, math.inf)
    running = loop.measure(batches(clock, 0.05, ahead=4), 5, 2.0, math.inf, 1.0)
    reading = result_in_loop(running, clock, lambda number: 3.0 if number == 8 else 0.001)
    assert reading.rate.samples_per_second == pytest.approx(4 / 0.05, rel=0.05)


def test_a_loop_that_pauses_at_its_last_batch_is_read_as_far_as_it_went(clock):
    loop = LoopMeter(4.0, 20)
    running = loop.measure(batches(clock, 1e-6), 1, 20.0, math.inf, 1.0)
    reading = result_in_loop(running, clock, lambda number: 5.0 if number == 19 else 0.01)
    assert reading.rate.samples_per_second == pytest.approx(400, rel=0.01)
    assert loop.batches_given == 20
    paused = LoopMeter(4.0, 1)
    assert result_in_loop(paused.measure(batches(clock, 1e-6), 1, 20.0, math.inf, 1.0), clock, lambda _: 5.0) is None


def test_steps_that_are_all_slow_are_no_pauses():
    pauses = LoopPauses()
    assert not any(pauses.is_pause(seconds) for seconds in [4.0, 5.0, 4.0, 30.0])
    assert pauses.is_pause(60.0)


def test_what_workers_take_from_the_step_is_no_waiting_for_data():
    """Ready batches would save a third of the time, of which the loop spends a hundredth on getting its own."""
    reading = LoopReading((Chunk(66.0, 1.0),), 0.01 / 66, 0.99 / 66, 0.0, 0.0)
    step = TrainingStep(100.0, 0.0, blocks=True)
    assert waiting_share(reading.rate, step) == pytest.approx(0.34)
    found = unchanged_loop([reading], waiting_share(reading.rate, step))
    assert found.baseline_waiting_share == pytest.approx(0.01)
    assert reported_waiting_share(None, [reading]) is None
