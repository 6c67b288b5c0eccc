"""What is decided for a loop whose times are given: on a busy host, a real one may gain where it has nothing to.

The batches are as slow as the dataset's sleep says, shared out over the workers and threads of what the pilot wants,
and made beside the loop's step by workers only.
"""

import dataclasses
import math

import pytest
import torch
from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.host import Limits
from plumb.tuning.dataset_settings import Settings
from plumb.tuning.live.controller import UNLIMITED, LiveController
from plumb.tuning.live.meter import Delivery
from tests.parts.live_parts import Squares

BATCH = 8
SAMPLE_SECONDS = 0.002


class Clock:
    """Gives a pilot the deliveries of a loop with steps of `step_seconds`, each on what the pilot wants by then."""

    def __init__(self, own, step_seconds, settings=UNLIMITED):
        dataset = Squares(6400, seconds=SAMPLE_SECONDS)
        self.loader = DataLoader(dataset, batch_size=BATCH, num_workers=own.num_workers)
        self.controller, self.step_seconds, self._now = LiveController(own, lambda: None, settings), step_seconds, 0.0
        self.controller.begin(self.loader, len(self.loader))

    def wait_seconds(self, config):
        batch = BATCH * SAMPLE_SECONDS / config.fetch_threads
        if not config.num_workers:
            return batch
        return max(0.0001, batch / config.num_workers - self.step_seconds)

    def runs_until(self, happened, batches=3000):
        controller, batch = self.controller, torch.zeros(BATCH, 2, dtype=torch.int64)
        for number in range(batches):
            config = controller.wanted
            wait = self.wait_seconds(config)
            ends_span = controller.ends_span(self._now + self.step_seconds, config.num_workers)
            self._now += self.step_seconds + wait
            start = (self._now, wait, 0.0001, self.step_seconds, 0.0001)
            indices = range(number * BATCH, (number + 1) * BATCH)
            controller.note(Delivery(config, BATCH, *start, True, True, ends_span, 0.0, ()), batch, indices)
            if happened():
                return
        raise AssertionError(controller.trials)


@pytest.mark.parametrize("own", [Config(num_workers=1, prefetch_factor=2), Config(num_workers=4, prefetch_factor=2)])
def test_a_loop_that_does_not_wait_is_left_alone(own, capfd):
    clock = Clock(own, step_seconds=0.05)
    clock.runs_until(lambda: clock.controller.is_settled)
    assert {trial.config for trial in clock.controller.trials} == {own}
    assert "nothing to gain" in clock.controller.trials[-1].outcome
    assert capfd.readouterr().err == ""


def test_a_loop_that_waits_a_little_is_left_alone_too():
    clock = Clock(Config(), step_seconds=0.6)
    clock.runs_until(lambda: clock.controller.is_settled)
    assert {trial.config for trial in clock.controller.trials} == {Config()}
    assert "nothing to gain: your loop waits for data 2.6% of its time" in clock.controller.trials[-1].outcome


def test_it_looks_again_when_the_loop_changes():
    own = Config(num_workers=1, prefetch_factor=2)
    clock = Clock(own, step_seconds=0.05)
    clock.runs_until(lambda: clock.controller.is_settled)
    assert clock.controller.wanted == own
    clock.step_seconds = 0.004
    clock.runs_until(lambda: clock.controller.is_settled and clock.controller.wanted != own)
    assert any(trial.outcome.startswith("looked at again: ") for trial in clock.controller.trials)
    assert clock.controller.wanted.num_workers * clock.controller.wanted.fetch_threads > 1
    clock.controller.let_go()


@pytest.mark.parametrize("most", [0, 1])
def test_the_limits_of_the_user_are_kept(most):
    own = Config()
    limits = dataclasses.replace(Limits.detect(), cpus=1.0, max_workers=most)
    clock = Clock(own, 0.004, Settings(limits=limits, plain=True))
    clock.runs_until(lambda: clock.controller.is_settled)
    tried = {trial.config.num_workers for trial in clock.controller.trials}
    assert tried == set(range(most + 1))
    assert clock.controller._options.limits.cpus == 1.0
    clock.controller.let_go()


def test_a_budget_ends_the_trials_and_not_the_training(monkeypatch):
    clock = Clock(Config(), 0.004, Settings(budget_seconds=0.5, plain=True))
    monkeypatch.setattr("plumb.tuning.live.controller.time.perf_counter", lambda: clock._now)
    clock.controller._limits_until = math.inf
    clock.runs_until(lambda: clock.controller.is_settled)
    tried = {trial.config.num_workers for trial in clock.controller.trials}
    assert len(tried) == 2, "the first trial takes longer than that, and is the last one"
    assert clock.controller.wanted.num_workers == max(tried)
    clock.controller.let_go()
