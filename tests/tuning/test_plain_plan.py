"""Torch's own arguments alone: what is tried for them, what the loop makes of them, and who may wish for them."""

import dataclasses
import math
import weakref

import pytest
import torch
from click.testing import CliRunner
from torch.utils.data import DataLoader

import plumb
from plumb.cli.app import cli
from plumb.core.config import CacheChoice, Config
from plumb.core.plan import (
    LoaderResult,
    LoopGain,
    Measured,
    PlainMeasured,
    Prediction,
    Rate,
    SampleCost,
    decode,
    encode,
)
from plumb.host import Limits
from plumb.instrument.call_site import Site
from plumb.model.inputs import AllocatorGain, CutCost, Footprint, ModelInputs, RemainingCpuShare, SearchSpace
from plumb.rewrites.find_rewrites import AvailableRewrites
from plumb.tuning import in_loop
from plumb.tuning.dataset_settings import Settings, mark, settings_of
from plumb.tuning.epoch_rehearsal import NO_COSTS
from plumb.tuning.live.candidates import worth_trying
from plumb.tuning.live.controller import LiveController
from plumb.tuning.loader_under_test import TuningResult
from plumb.tuning.measure.known_loader import KnownLoader
from plumb.tuning.measure.training_loop import LoopMeter
from plumb.tuning.options import Options
from plumb.tuning.plain_plan import best_plain, plain_worth_trying, with_plain
from plumb.tuning.search.ledger import STOPPED, TrialResult

COST = SampleCost(2e-3, 2e-3, 0.0, 1e-5, 1e3, 1.0)
SITUATION = ModelInputs(
    COST,
    COST,
    Footprint(1e4, 1, 1e7, 1e8, 10),
    Limits(cpus=4),
    samples_per_batch=10.0,
    dataset_samples=1000.0,
    cuts=(CutCost("decode", 1e3, RemainingCpuShare(0.5, 0.5), 1.0, 1e-4),),
)
STORE = CacheChoice("decode", "memory", 10**6, 1.0)
FREEDOM = SearchSpace(
    tuple(range(5)), caches=(None, STORE), allocator_reuse=(False, True), fetch=((1, None), (8, None))
)
STORED = Config(2, 2, cache=STORE)


def reading(config, rate, spread=0.05, outcome=""):
    return TrialResult(config, Rate(rate, (rate * (1 - spread), rate * (1 + spread))), rate, outcome)


OWN = reading(Config(), 500.0)


def test_what_the_model_expects_most_of_is_tried_where_only_a_store_was_measured_to_be_better():
    config = plain_worth_trying(FREEDOM, SITUATION, [OWN, reading(STORED, 9000.0)], math.inf)
    assert config.num_workers >= 3
    assert not config.needs_runtime


@pytest.mark.parametrize(
    "readings",
    [
        [OWN, reading(Config(4, 2), 1900.0)],
        [OWN, reading(STORED, 9000.0), reading(Config(4, 2), 2500.0)],
        [reading(Config(), 9000.0), reading(STORED, 9100.0)],
    ],
    ids=["the best is plain", "a plain one was measured to be as fast as any", "the user's own is"],
)
def test_and_nothing_else(readings):
    assert plain_worth_trying(FREEDOM, SITUATION, readings, math.inf) is None


def test_the_best_plain_one_is_compared_by_turns_too():
    stored, plain, slower = reading(STORED, 9000.0), reading(Config(4, 2), 1900.0), reading(Config(1, 2), 450.0)
    assert with_plain([OWN, stored], [OWN, slower, plain, stored]) == [OWN, stored, plain]
    assert with_plain([OWN, plain], [OWN, plain]) == [OWN, plain]
    assert with_plain([OWN, stored], [OWN, slower, stored]) == [OWN, stored]
    stopped = dataclasses.replace(plain, outcome=STOPPED)
    assert with_plain([OWN, stored], [OWN, stopped, stored]) == [OWN, stored]


def test_a_plain_one_that_is_not_known_to_be_better_is_left_to_the_loop_or_left():
    stored, plain = reading(STORED, 9000.0), reading(Config(4, 2), 1900.0)
    near = reading(Config(1, 2), 540.0, 0.1)
    assert best_plain(SITUATION, [OWN, stored, plain], [], False) is plain
    assert best_plain(SITUATION, [OWN, stored], [OWN, stored, plain], False) is plain
    assert best_plain(SITUATION, [OWN, stored, near], [], False) is OWN
    assert best_plain(SITUATION, [OWN, stored, near], [], True) is near


# ---- in the user's loop, on a virtual clock

SECONDS = {Config(): 0.1, Config(2, 2): 0.05, Config(1, 2): 0.2, STORED: 0.02, Config(cache=STORE): 0.5}


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def planned(monkeypatch, clock, tuned, plain, batches=math.inf, changed=""):
    """The plan of a loop that takes 10 ms for a batch, where a tuning alone came to `tuned`, and to `plain`."""

    def feed(config):
        while True:
            clock[0] += SECONDS[config]
            yield torch.zeros(10)

    class Tuner:
        def __init__(self, subject, *_):
            self.subject = subject

        def choose(self):
            alone = [Measured(config, 10 / SECONDS[config], (1.0, 1e6)) for config in (Config(), tuned, plain)]
            return TuningResult(*alone, SITUATION, FREEDOM, AvailableRewrites(), (), (), 0.0)

        def loader(self, config):
            return feed(config)

        def epoch_costs(self, *_):
            return NO_COSTS

    monkeypatch.setattr(in_loop, "Tuner", Tuner)
    monkeypatch.setattr(in_loop, "_changed", lambda loop: changed)
    loader = DataLoader(torch.zeros(64, 4), batch_size=10)
    known = KnownLoader("loader", Site("train.py", 1, "loader"), weakref.ref(loader), 10)
    tuning = in_loop.TuningWork(Options(60.0, Limits()), lambda event: None)
    running = tuning.run_in_loop(known, loader, LoopMeter(10.0, batches), feed(Config()), 60.0)
    next(running)
    while True:
        clock[0] += 0.01
        try:
            running.send(False)
        except StopIteration as stopped:
            # As its file gives it back.
            return decode(encode(plan_of(stopped.value.plan))).loaders[0]


def plan_of(entry):
    return plumb.core.plan.Plan("train.py", {}, 1.0, 1.0, (entry,))


@pytest.mark.slow
def test_the_loop_runs_on_both_and_says_what_each_comes_to(monkeypatch, clock):
    entry = planned(monkeypatch, clock, STORED, Config(2, 2))
    assert entry.config == STORED
    assert entry.end_to_end.ratio == pytest.approx(0.11 / 0.03, rel=0.02)
    assert entry.plain.config == entry.expressible == Config(2, 2)
    assert entry.plain_gain == pytest.approx(0.11 / 0.06, rel=0.02)
    assert entry.rest_gain == pytest.approx(0.06 / 0.03, rel=0.02)


def test_a_plain_one_that_the_loop_is_slower_with_is_not_kept(monkeypatch, clock):
    entry = planned(monkeypatch, clock, STORED, Config(1, 2))
    assert (entry.config, entry.plain.config, entry.expressible) == (STORED, Config(), None)
    assert entry.plain_gain is entry.rest_gain is None


def test_a_plain_one_is_chosen_where_the_loop_is_slower_with_the_rest(monkeypatch, clock):
    entry = planned(monkeypatch, clock, Config(cache=STORE), Config(2, 2))
    assert entry.config == entry.plain.config == Config(2, 2)
    assert entry.end_to_end.ratio == pytest.approx(0.11 / 0.06, rel=0.02)
    assert entry.plain.gain == entry.end_to_end.gain


def test_what_is_plain_already_is_both(monkeypatch, clock):
    entry = planned(monkeypatch, clock, Config(2, 2), Config(2, 2))
    assert entry.config == entry.plain.config == Config(2, 2)
    assert entry.plain.gain == entry.end_to_end.gain
    assert entry.rest_gain == pytest.approx(1.0, rel=0.02)


def test_a_loop_that_changes_its_dataset_gets_no_plain_workers_either(monkeypatch, clock):
    entry = planned(monkeypatch, clock, STORED, Config(2, 2), changed="dataset.progress")
    assert entry.config == entry.plain.config == Config()


def test_a_loop_without_batches_left_leaves_what_was_measured_alone(monkeypatch, clock):
    entry = planned(monkeypatch, clock, STORED, Config(2, 2), batches=30)
    assert entry.plain.gain is None


# ---- an older plan, and what is printed


def entry_of(plain, gain=None):
    return LoaderResult(
        "loader",
        "train.py:1",
        "Rows",
        10,
        Measured(Config(), 100.0, (90.0, 110.0)),
        Measured(STORED, 800.0, (790.0, 810.0)),
        Prediction(800.0, "cpu", {}),
        plain=plain and PlainMeasured(plain, 200.0, (190.0, 210.0), gain),
    )


def test_a_report_says_what_to_write_and_what_the_rest_adds():
    text = plumb.LoaderPlan(plan_of(entry_of(Config(2, 2)))).explain()
    assert "or write: DataLoader(..., num_workers=2, prefetch_factor=2)" in text
    assert "by itself 2.00 times as fast as now; all of the plan is 4.00 times as fast as that" in text
    assert "or write" not in plumb.LoaderPlan(plan_of(entry_of(Config()))).explain()
    assert "or write" not in plumb.LoaderPlan(plan_of(entry_of(None))).explain()


def test_rates_of_the_loop_and_of_the_loader_alone_are_not_compared():
    gain = LoopGain(1.5, None, 2, 0.0)
    assert entry_of(Config(2, 2), gain).plain_gain == 1.5
    assert entry_of(Config(2, 2), gain).rest_gain == 4.0


# ---- the wish


def test_the_command_takes_it_and_says_what_it_does_not_go_with(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("plumb.cli.tune_command.tune", lambda target, arguments, orders, *_: asked.append(orders))
    script = tmp_path / "train.py"
    script.write_text("pass")
    run = CliRunner().invoke
    run(cli, ["tune", "--plain", str(script)], standalone_mode=False)
    run(cli, ["tune", str(script)], standalone_mode=False)
    assert [orders.plain for orders in asked] == [True, False]
    refused = run(cli, ["tune", "--plain", "--on-device", str(script)])
    assert (refused.exit_code, "--on-device" in refused.output) == (2, True)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 256

    def __getitem__(self, index):
        return torch.full((2000,), float(index)).sort()[0]


@pytest.mark.slow
def test_nothing_but_torch_s_arguments_is_tried_from_python():
    found = plumb.tune(Rows(), batch_size=32, budget=6, plain=True)
    assert not any(trial.config.needs_runtime for trial in found.entry.trials)
    assert found.entry.rewrites.cuts == ()
    reasons = found.entry.rewrites.reasons
    assert "samples are left as they are: torch's own arguments alone were asked for" in reasons or any(
        "not enough time" in reason for reason in reasons
    )
    assert found.plain.config == found.config
    assert found.graph.number_of_nodes()


def test_a_decorator_hands_it_on_to_what_is_tuned_and_kept():
    from plumb.api.plan_cache import cache_key

    @plumb.tuned(plain=True)
    class Marked(Rows):
        pass

    settings = plumb.tuning.dataset_settings.settings_of(Marked())
    assert settings.options().plain
    loader = DataLoader(Marked(), batch_size=4)
    facts = [cache_key(loader, Settings(plain=plain).options()) for plain in (True, False)]
    assert facts[0].plain() != facts[1].plain()


def test_live_tries_nothing_else_either(monkeypatch):
    dataset = Rows()
    assert mark(dataset, Settings(plain=True))
    loader = DataLoader(dataset, batch_size=4)
    monkeypatch.setattr(
        "plumb.tuning.live.controller.BackgroundSearch", lambda *_, **__: pytest.fail("nothing is to be looked for")
    )
    controller = LiveController(Config(), lambda: None, settings_of(dataset))
    controller._loader, controller._seen_indices = loader, [[0, 1]]
    with pytest.raises(StopIteration) as done:
        next(controller._search_rewrites(gained=False))
    assert done.value.value is False
    reusing = dataclasses.replace(SITUATION, allocator=AllocatorGain(0.1, 0.0))
    asked = []

    def rank(search_space, _):
        asked.append(search_space)
        raise LookupError

    monkeypatch.setattr("plumb.tuning.live.candidates.planner.rank", rank)
    start, options = plumb.tuning.search.search_space.WorkerStart(), settings_of(dataset).options()
    with pytest.raises(LookupError):
        worth_trying(loader, Config(), reusing, {}, (), start, 0.0, AvailableRewrites(), options)
    assert asked[0].allocator_reuse == (False,)
