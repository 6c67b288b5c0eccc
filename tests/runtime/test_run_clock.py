"""A plan by the clock of the run, on a virtual clock: when the user's own configuration gets a turn, and who stays."""

import random
from dataclasses import dataclass, field

import pytest

from plumb.core.config import CacheChoice, Config
from plumb.core.plan import Claim
from plumb.runtime import run_clock
from plumb.runtime.run_clock import RunClock

PLAN = Config(2, 2)
OWN_SECONDS = 0.1
STEP = 0.02


@pytest.fixture(autouse=True)
def nobody_on_trial(monkeypatch):
    monkeypatch.setattr(run_clock, "_on_trial", None)


@dataclass
class Load:
    """What others take of the CPUs, as a test says."""

    taken: list

    def cpus(self):
        return self.taken[0]


@dataclass
class Training:
    """A loop on a virtual clock: `plan` and `own` are what a batch takes on either, step included.

    `start` is what an epoch on the plan takes before its first batch, `pause` what the loop does between two batches of
    the middle of an epoch, and `others` what others take of the CPUs while the plan, and the user's own, reads.
    """

    plan: float
    own: float = OWN_SECONDS
    claimed: float = OWN_SECONDS / 4
    first: float | None = None
    start: float = 0.0
    pause: float = 0.0
    batches: int = 50
    left_after: int | None = None
    others: tuple = (0.0, 0.0)
    config: Config = PLAN
    fill_batches: float = 0.0
    is_of_loop: bool = True
    now: float = 1000.0
    said: list = field(default_factory=list)
    sides: list = field(default_factory=list)
    epochs: list = field(default_factory=list)

    def __post_init__(self):
        self.load = [0.0]
        claim = Claim(1 / OWN_SECONDS, *[1 / self.claimed] * 3, self.is_of_loop)
        self.clock = RunClock(
            claim, 1.0, Config(), self.config, self.fill_batches, self.said.append, lambda: Load(self.load)
        )

    def run(self, epochs):
        for _ in range(epochs):
            self.epoch()
        return self

    def epoch(self):
        begun, sides = self.now, set()
        self.clock.epoch_begins()
        is_own, is_new = self.clock.wants_own, True
        self.now += 0.0 if is_own else self.start
        self.clock.epoch_begun(begun, self.now)
        for number in range(self.batches if self.left_after is None else self.left_after):
            if is_own is not self.clock.wants_own:
                is_own, is_new = self.clock.wants_own, True
            self.load[0] = self.others[is_own]
            asked = self.now
            whole = self.own if is_own else self.plan
            if self.first is not None and not self.epochs:
                whole = self.first
            self.now += whole - STEP
            self.clock.delivered(asked, self.now, is_own, not is_new)
            self.now += STEP + (self.pause if number == self.batches // 2 else 0.0)
            sides.add("own" if is_own else "plan")
            is_new = False
        if self.left_after is None:
            self.clock.epoch_ended(self.now, self.now)
        self.sides.append(" and ".join(sorted(sides)))
        self.epochs.append(self.now - begun)

    @property
    def delivered(self):
        return self.said[-1]


def test_a_plan_that_keeps_its_claim_is_measured_for_two_epochs_and_never_leaves():
    training = Training(plan=0.025).run(4)
    assert training.sides == ["plan"] * 4
    assert training.clock.is_over
    assert training.delivered.ratio == pytest.approx(4.0, rel=0.01)
    assert (training.delivered.is_by_turns, training.delivered.is_slower) == (False, False)
    assert training.delivered.later == pytest.approx(40.0, rel=0.01)


def test_a_plan_that_is_clearly_slower_is_left_after_one_epoch_by_turns():
    training = Training(plan=0.2, claimed=0.05).run(6)
    assert training.sides == ["plan", "own", "own", "own", "own", "own"]
    assert training.delivered.is_slower
    assert training.delivered.is_by_turns
    assert training.delivered.ratio == pytest.approx(0.5, rel=0.01)


def test_a_plan_that_is_a_little_slower_must_be_so_twice():
    training = Training(plan=0.12).run(7)
    assert training.sides == ["plan", "plan", "own", "plan", "own", "own", "own"]
    assert training.delivered.ratio == pytest.approx(0.1 / 0.12, rel=0.01)
    assert training.delivered.is_slower


def test_what_only_begins_slowly_is_given_a_second_epoch():
    training = Training(plan=0.025, start=0.0)
    training.start = 60.0
    training.epoch()
    training.start = 0.0
    training.run(3)
    assert training.sides == ["plan"] * 4
    assert training.delivered.first == pytest.approx(50 / 61.25, rel=0.05)


def test_what_the_second_epoch_alone_costs_is_not_taken_for_what_all_cost():
    training = Training(plan=0.025)
    training.epoch()
    training.start = 4.0
    training.epoch()
    training.start = 0.0
    training.run(3)
    assert training.sides == ["plan"] * 5
    assert training.delivered.ratio == pytest.approx(4.0, rel=0.01)


def test_starts_that_every_epoch_pays_for_count():
    """Ten batches of a quarter of the time, behind a start that takes as long as an epoch of the user's own."""
    training = Training(plan=0.025, start=1.2, batches=10).run(8)
    assert training.sides[:3] == ["plan"] * 3
    assert training.sides[-1] == "own"
    assert training.delivered.is_slower


def test_a_busy_host_does_not_end_a_plan():
    """Everything takes six times as long as when the plan was made, on the plan and without it."""
    training = Training(plan=0.15, own=0.6).run(6)
    assert training.sides[2].endswith("plan") or training.sides[3] == "plan"
    assert training.sides[-1] == "plan"
    assert not training.delivered.is_slower
    assert training.delivered.ratio == pytest.approx(4.0, rel=0.05)


def test_others_that_come_while_the_plan_reads_do_not_end_it():
    training = Training(plan=0.12, others=(1.5, 0.0)).run(16)
    assert training.sides[-1] == "plan"
    assert training.clock.is_over
    assert not training.delivered.is_slower


def test_others_that_come_while_the_own_configuration_reads_do_not_save_a_plan():
    training = Training(plan=0.12, others=(0.0, 1.5)).run(6)
    assert training.delivered.is_slower


def test_a_difference_within_noise_takes_several_pairs():
    training = Training(plan=0.097).run(8)
    assert training.sides[:6] == ["plan", "plan", "own", "plan", "own", "plan"]
    assert training.sides[6:] == ["plan", "plan"]
    assert not training.delivered.is_slower


def test_the_own_configuration_is_given_up_within_its_epoch_where_it_is_clearly_slower():
    training = Training(plan=0.09, own=0.9, claimed=0.01, batches=200).run(4)
    assert training.sides[2] == "own and plan"
    assert training.epochs[2] < 0.5 * 200 * 0.9
    assert training.sides[3] == "plan"


def test_a_loop_that_leaves_its_epochs_by_break_is_measured():
    training = Training(plan=0.12, left_after=20).run(6)
    assert training.sides[-1] == "own"
    assert training.delivered.is_slower


def test_an_epoch_that_never_ends_is_measured_in_laps():
    training = Training(plan=0.12, batches=4000).run(1)
    assert training.sides == ["own and plan"]
    assert training.delivered.is_slower
    assert training.epochs[0] < 4000 * 0.11


def test_pauses_of_the_loop_are_no_waiting():
    training = Training(plan=0.025, pause=30.0).run(3)
    assert training.sides == ["plan"] * 3
    assert training.delivered.ratio == pytest.approx(4.0, rel=0.03)


def test_the_epoch_that_fills_a_store_is_not_judged():
    config = Config(cache=CacheChoice("sample", "memory", 2**20, 1.0))
    training = Training(plan=0.025, first=0.3, config=config, fill_batches=50).run(4)
    assert training.sides == ["plan"] * 4
    assert training.delivered.ratio == pytest.approx(4.0, rel=0.01)


def test_a_store_that_is_thrown_away_each_epoch_is_found_out():
    config = Config(cache=CacheChoice("sample", "memory", 2**20, 1.0))
    training = Training(plan=0.13, config=config, fill_batches=50).run(5)
    assert training.sides == ["plan", "plan", "own", "plan", "own"]


def test_workers_that_outlive_epochs_are_not_charged_for_a_turn():
    """After the own configuration's turn they are started again, which no other epoch would do."""
    training = Training(plan=0.097, config=Config(2, 2, persistent_workers=True))
    training.run(2)
    assert training.clock.wants_own
    training.epoch()
    training.start = 100.0
    training.epoch()
    training.start = 0.0
    training.run(3)
    assert not training.delivered.is_slower
    assert training.delivered.ratio == pytest.approx(1 / 0.97, rel=0.01)


def test_a_loader_that_was_tuned_alone_is_judged_with_the_steps_that_its_loop_takes():
    """It waits for no batch on the plan: each takes a step, where the user's own takes a making and a step."""
    training = Training(plan=STEP, own=OWN_SECONDS + STEP, is_of_loop=False).run(3)
    assert training.sides == ["plan"] * 3
    assert training.delivered.ratio == pytest.approx((OWN_SECONDS + STEP) / STEP, rel=0.05)


def test_two_loaders_are_not_tried_at_once():
    one, other = Training(plan=0.12), Training(plan=0.12)
    for _ in range(3):
        one.epoch()
        other.epoch()
    assert one.sides == ["plan", "plan", "own"]
    assert other.sides == ["plan", "plan", "plan"]
    for _ in range(6):
        one.epoch()
        other.epoch()
    assert one.delivered.is_slower
    assert other.delivered.is_slower


@pytest.mark.parametrize(("seconds", "most_left"), [(0.075, 0.02), (0.05, 0.005), (0.025, 0.001)])
def test_hosts_that_drift_do_not_end_a_plan(seconds, most_left):
    """From epoch to epoch everything takes up to half as long again, which nothing but the clock shows."""
    rng, runs = random.Random(0), 400
    left = 0
    for _ in range(runs):
        training = Training(plan=seconds, batches=20)
        for _ in range(10):
            drift = 1.5 ** rng.uniform(0, 1)
            training.plan, training.own = seconds * drift, OWN_SECONDS * drift
            training.epoch()
        left += training.delivered.is_slower
        run_clock._on_trial = None
    assert left / runs <= most_left


def test_a_clock_that_fails_ends_the_measurement_alone(capsys):
    training = Training(plan=0.12)
    training.clock._begin_load = lambda: 1 / 0
    training.run(4)
    assert training.sides == ["plan"] * 4
    assert "is not measured any more" in capsys.readouterr().err
