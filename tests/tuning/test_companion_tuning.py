"""Several loaders of one loop: seen to feed it, tuned together, judged by what it gains. On a virtual clock."""

import math

import pytest
import torch
from torch.utils.data import DataLoader

from plumb.core import events
from plumb.core.config import CacheChoice, Config
from plumb.core.errors import TuningError
from plumb.core.plan import Measured, SampleCost
from plumb.host import Limits
from plumb.instrument.call_site import Site
from plumb.model.inputs import CutCost, Footprint, ModelInputs, RemainingCpuShare, SearchSpace
from plumb.rewrites.find_rewrites import AvailableRewrites
from plumb.script.session import Session
from plumb.tuning import in_loop
from plumb.tuning.epoch_rehearsal import NO_COSTS
from plumb.tuning.loader_under_test import TuningResult
from plumb.tuning.options import Options

COST = SampleCost(2e-3, 2e-3, 0.0, 1e-5, 1e3, 1.0)
SITUATION = ModelInputs(
    COST,
    COST,
    Footprint(1e4, 1, 1e7, 1e8, 10),
    Limits(cpus=4, memory_bytes=1e10, shm_bytes=1e9),
    samples_per_batch=4.0,
    dataset_samples=1000.0,
    cuts=(CutCost("decode", 1e3, RemainingCpuShare(0.5, 0.5), 1.0, 1e-4),),
)
WORKERS = Config(2, 2)
STORE = Config(2, 2, cache=CacheChoice("decode", "memory", 10**6, 1.0))
STEP_SECONDS = 0.01


class Over(BaseException):
    """Stands for the end of the script's process."""


class Tunings:
    """Tunings of single loaders, which come to what a test wants; `subjects` are those that were asked for."""

    def __init__(self, clock, seconds, chosen):
        self.clock, self.seconds, self.chosen, self.subjects = clock, seconds, chosen, {}

    def __call__(self, subject, options, seconds, window_seconds, emit):
        self.subjects[subject.name] = subject
        self.limits = options.limits
        return _Tuner(self, subject)

    def feed(self, name, config):
        while True:
            self.clock[0] += self.seconds[name].get(config, 0.001)
            yield torch.zeros(4)


class _Tuner:
    def __init__(self, tunings, subject):
        self.tunings, self.subject, self.name = tunings, subject, subject.name

    def choose(self):
        chosen = self.tunings.chosen[self.name]
        if isinstance(chosen, Exception):
            raise chosen
        tuned, plain = chosen
        alone = [Measured(config, 100.0, (1.0, 1e6)) for config in (Config(), tuned, plain)]
        return TuningResult(*alone, SITUATION, SearchSpace((0, 2)), AvailableRewrites(), (), (), 0.0)

    def loader(self, config):
        if config == STORE and self.tunings.seconds[self.name].get("breaks"):
            raise OSError("no space left")
        return self.tunings.feed(self.name, config)

    def epoch_costs(self, *_):
        return NO_COSTS


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def tuned(monkeypatch, clock, seconds, chosen, steps=None, length=10**6):
    """The plans and the events of a script that takes a batch of each loader in each step, and the tunings it got.

    It counts steps, and makes another iterator where one has ended. `seconds` says how long a batch of a loader takes
    on a configuration, `steps` in which steps it is read.
    """
    told = []
    tunings = Tunings(clock, seconds, chosen)
    monkeypatch.setattr(in_loop, "Tuner", tunings)
    options = Options(60.0, Limits(cpus=4, memory_bytes=1e10, shm_bytes=1e9))
    session = Session(lambda: in_loop.TuningWork(options, told.append), 60.0, told.append, list)

    def end():
        raise Over

    monkeypatch.setattr(session, "end_script", end)
    loaders = {name: DataLoader(torch.zeros(length, 4), batch_size=4) for name in seconds}
    own = {name: lambda name=name: _some(tunings.feed(name, Config()), length) for name in loaders}
    for number, (name, loader) in enumerate(loaders.items()):
        session.constructed(loader, Site("train.py", number, name))

    def begun(name):
        return session.iterating(loaders[name], own[name], plain_loop=False)

    def train():
        running = {name: begun(name) for name in loaders}
        for step in range(10**5):
            for name in loaders:
                if steps is None or steps(name, step):
                    try:
                        next(running[name])
                    except StopIteration:
                        running[name] = iter(begun(name))
                        next(running[name])
            clock[0] += STEP_SECONDS
            session._signals.count += 1

    with pytest.raises(Over):
        train()
    plans = {event.plan.name: event.plan for event in told if isinstance(event, events.LoaderDone)}
    return plans, told, tunings


def _some(batches, length):
    for _ in range(length):
        yield next(batches)


SLOW = {Config(): 0.03, WORKERS: 0.01, STORE: 0.005}
BOTH = {"labelled": SLOW, "unlabelled": SLOW}
STORES = {"labelled": (STORE, WORKERS), "unlabelled": (STORE, WORKERS)}


def test_both_wait_and_both_gain_what_their_loop_does(monkeypatch, clock):
    plans, _, tunings = tuned(monkeypatch, clock, BOTH, STORES)
    assert list(plans) == ["labelled", "unlabelled"]
    for name, plan in plans.items():
        assert plan.config == STORE
        assert plan.end_to_end.ratio == pytest.approx(0.07 / 0.02, rel=0.03), name
        assert plan.end_to_end.baseline_waiting_share == pytest.approx(0.06 / 0.07, rel=0.03)
        assert plan.plain.config == WORKERS
        assert plan.plain_gain == pytest.approx(0.07 / 0.03, rel=0.03)
        assert tunings.subjects[name].waiting_share == pytest.approx(0.06 / 0.07, rel=0.03)
        assert plan.end_to_end.tuned_waiting_share == pytest.approx(0.01 / 0.02, rel=0.03)
        assert tunings.subjects[name].step.samples_per_second == pytest.approx(4 / STEP_SECONDS, rel=0.03)
        assert not any("no training loop" in note for note in plan.notes)
    assert any("your loop reads unlabelled in its steps, too" in note for note in plans["labelled"].notes)
    assert any("feeds the same loop as labelled" in note for note in plans["unlabelled"].notes)


def test_a_loader_that_is_begun_again_when_it_ends_is_one_of_them(monkeypatch, clock):
    plans, _, _ = tuned(monkeypatch, clock, BOTH, STORES, length=12)
    assert [(name, plan.config) for name, plan in plans.items()] == [("labelled", STORE), ("unlabelled", STORE)]


def test_a_loop_that_ends_before_both_were_tried_was_seen_to_read_both(monkeypatch, clock):
    """It counts its four batches, so that it must be left after two."""
    monkeypatch.setattr("plumb.script.session.begins_anew", lambda frame: False)
    plans, _, _ = tuned(monkeypatch, clock, BOTH, {name: (Config(), Config()) for name in BOTH}, length=16)
    assert set(plans) == {"labelled", "unlabelled"}
    assert not any("no training loop was seen to use it" in note for plan in plans.values() for note in plan.notes)


def test_what_the_loop_is_slower_with_is_offered_for_neither(monkeypatch, clock):
    slower = {"labelled": SLOW, "unlabelled": {**SLOW, STORE: 0.2, WORKERS: 0.2}}
    plans, _, _ = tuned(monkeypatch, clock, slower, STORES)
    for plan in plans.values():
        assert plan.config == plan.plain.config == Config()
        assert plan.end_to_end.ratio == 1.0
    assert any("nothing better: your loop ran 0." in note for note in plans["labelled"].notes)
    assert any("unlabelled: num_workers=2" in note for note in plans["labelled"].notes)


def test_a_loop_that_waits_for_nothing_has_nothing_to_gain_by_either(monkeypatch, clock):
    quick = {name: {Config(): 1e-5} for name in BOTH}
    _, _, tunings = tuned(monkeypatch, clock, quick, {name: (Config(), Config()) for name in BOTH})
    assert all(subject.waiting_share < 0.01 for subject in tunings.subjects.values())


def test_only_the_second_one_is_slow(monkeypatch, clock):
    seconds = {"labelled": {Config(): 1e-4}, "unlabelled": SLOW}
    plans, _, _ = tuned(
        monkeypatch, clock, seconds, {"labelled": (Config(), Config()), "unlabelled": (WORKERS, WORKERS)}
    )
    assert plans["labelled"].config == Config()
    assert plans["unlabelled"].config == WORKERS
    assert plans["unlabelled"].end_to_end.ratio == pytest.approx(0.04 / 0.02, rel=0.03)


def test_batches_of_a_companion_that_cannot_be_had_leave_both_as_they_are(monkeypatch, clock):
    broken = {"labelled": SLOW, "unlabelled": {**SLOW, "breaks": True}}
    plans, _, _ = tuned(monkeypatch, clock, broken, {"labelled": (STORE, STORE), "unlabelled": (STORE, STORE)})
    assert [plan.config for plan in plans.values()] == [Config(), Config()]
    assert any("no space left" in note for note in plans["labelled"].notes)


def test_one_that_cannot_be_tuned_goes_on_as_it_is(monkeypatch, clock):
    chosen = {"labelled": (WORKERS, WORKERS), "unlabelled": TuningError("its batches come only once", 1)}
    plans, told, _ = tuned(monkeypatch, clock, BOTH, chosen)
    assert list(plans) == ["labelled"]
    assert plans["labelled"].end_to_end.ratio == pytest.approx(0.07 / 0.05, rel=0.03)
    warned = [event.text for event in told if isinstance(event, events.Warned)]
    assert warned == ["unlabelled (train.py:1) was not tuned: its batches come only once"]


def test_the_second_has_room_for_what_the_first_leaves(monkeypatch, clock):
    _, _, tunings = tuned(monkeypatch, clock, BOTH, STORES)
    assert tunings.limits.shm_bytes < 1e9 - 10**6
    assert tunings.limits.memory_bytes < 1e10 - 2e7


@pytest.mark.parametrize(
    "steps",
    [lambda name, step: name == "train" or step in (0, 20, 40), lambda name, step: name == "train" or step == 0],
    ids=["now and then", "once"],
)
def test_a_loader_that_is_read_now_and_then_is_tuned_on_its_own(steps, monkeypatch, clock):
    seconds = {"train": SLOW, "picture": SLOW}
    chosen = {"train": (WORKERS, WORKERS), "picture": (Config(), Config())}
    plans, _, tunings = tuned(monkeypatch, clock, seconds, chosen, steps)
    assert plans["train"].end_to_end.ratio == pytest.approx(0.04 / 0.02, rel=0.03)
    assert not any("reads picture" in note for note in plans["train"].notes)
    assert tunings.subjects["picture"].step is None


def test_a_loader_that_each_step_goes_through_to_its_end_is_none_of_them(monkeypatch, clock):
    """To validate after each step, for example: it must come to its end."""
    told = []
    tunings = Tunings(clock, {"train": SLOW, "val": SLOW}, {"train": (WORKERS, WORKERS), "val": (Config(), Config())})
    monkeypatch.setattr(in_loop, "Tuner", tunings)
    session = Session(lambda: in_loop.TuningWork(Options(60.0, Limits()), told.append), 60.0, told.append, list)

    def end():
        raise Over

    monkeypatch.setattr(session, "end_script", end)
    train, val = (DataLoader(torch.zeros(400, 4), batch_size=4) for _ in range(2))
    session.constructed(train, Site("train.py", 1, "train"))
    session.constructed(val, Site("train.py", 2, "val"))
    passes = []

    def train_and_validate():
        for _ in session.iterating(train, lambda: tunings.feed("train", Config()), plain_loop=True):
            got = list(session.iterating(val, lambda: _some(tunings.feed("val", Config()), 3), plain_loop=False))
            passes.append(len(got))
            clock[0] += STEP_SECONDS
            session._signals.count += 1

    with pytest.raises(Over):
        train_and_validate()
    assert set(passes) == {3}
    assert math.isinf(session._loop.batches_at_most)
    assert session._loop.companions == []
