"""What a ledger says of failures, and what a search does about them."""

import dataclasses
from types import SimpleNamespace

import pytest

from plumb.core.config import Config
from plumb.model.inputs import SearchSpace
from plumb.tuning import tuner as tuning
from plumb.tuning.search.ledger import Ledger, TrialResult

POOL = "failed: NotImplementedError: pool objects cannot be passed between processes or pickled"
ONE, TWO, FOUR = (Config(num_workers=count, prefetch_factor=2) for count in (1, 2, 4))


def ledger_of(*outcomes):
    ledger = Ledger(None, 0, lambda trial: None)
    for config, outcome in outcomes:
        ledger.failed(config, outcome)
    return ledger


@pytest.mark.parametrize(
    ("outcomes", "failure"),
    [
        ([(ONE, POOL)], ""),
        ([(ONE, POOL), (TWO, POOL)], POOL.removeprefix("failed: ")),
        ([(Config(), POOL), (TWO, POOL)], ""),
        ([(ONE, POOL), (TWO, "failed: OSError: no room")], ""),
        (
            [(ONE, "failed: RuntimeError: worker (pid 12) died"), (TWO, "failed: RuntimeError: worker (pid 7) died")],
            "RuntimeError: worker (pid 12) died",
        ),
        ([(ONE, "ended: no batch within 20 s: a.py:3"), (TWO, "ended: no batch within 41 s: a.py:3")],
         "no batch within 20 s: a.py:3"),
        ([(ONE, "ended: only 3 MiB of memory left"), (TWO, "ended: only 4 MiB of memory left")], ""),
        ([(ONE, "not tried: memory"), (TWO, "not tried: memory")], ""),
    ],
)  # fmt: skip
def test_two_trials_with_workers_that_fail_alike_tell_of_all(outcomes, failure):
    assert ledger_of(*outcomes).failure_of_workers() == failure


def test_where_workers_were_measured_once_a_failure_tells_of_no_others():
    ledger = ledger_of((ONE, POOL), (TWO, POOL))
    ledger.trials.append(SimpleNamespace(config=FOUR, samples_per_second=10.0, outcome="measured"))
    assert ledger.failure_of_workers() == ""


DIED = "failed: RuntimeError: DataLoader worker (pid 7) exited unexpectedly"


@pytest.mark.parametrize(
    ("outcomes", "config", "failed"),
    [
        ([(ONE, DIED)], ONE, True),
        ([(ONE, DIED)], dataclasses.replace(ONE, persistent_workers=True), True),
        ([(ONE, DIED)], TWO, True),
        ([(ONE, DIED)], Config(fetch_threads=4), False),
        ([(ONE, "ended: only 3 MiB of memory left")], ONE, True),
        ([(TWO, "ended: only 3 MiB of memory left")], ONE, False),
        ([(ONE, "not tried: memory")], ONE, False),
        ([(ONE, "not measured: far slower than predicted, or time was up")], ONE, False),
        ([(Config(fetch_threads=4), "failed: OSError: no room")], Config(fetch_threads=4), True),
        ([(Config(fetch_threads=4), "failed: OSError: no room")], ONE, False),
    ],
)
def test_what_broke_off_in_a_trial_has_failed_and_so_have_all_workers_if_none_worked(outcomes, config, failed):
    assert ledger_of(*outcomes).has_failed(config) is failed


def test_where_other_workers_were_measured_only_those_that_broke_off_have_failed():
    ledger = ledger_of((ONE, DIED))
    ledger.trials.append(SimpleNamespace(config=FOUR, samples_per_second=10.0, outcome="measured"))
    assert [ledger.has_failed(config) for config in (ONE, TWO)] == [True, False]


@pytest.mark.parametrize(
    ("outcomes", "promised"),
    [([], [TWO]), ([(ONE, DIED)], [Config(fetch_threads=4)]), ([(ONE, "not tried: memory")], [TWO])],
)
def test_where_nothing_could_be_tried_what_failed_is_not_promised(outcomes, promised, monkeypatch):
    tuner = object.__new__(tuning.Tuner)
    tuner._trials = SimpleNamespace(ledger=ledger_of(*outcomes), steady_within_seconds=lambda: 1.0)
    tuner.options, tuner.window_seconds = SimpleNamespace(seed=0), 0.1
    tuner.seconds, tuner._begun, tuner._untried = 10.0, 0.0, ()
    ranked = [SimpleNamespace(config=config, training_samples_per_second=9.0) for config in (TWO, ONE)]
    ranked.append(SimpleNamespace(config=Config(fetch_threads=4), training_samples_per_second=8.0))
    monkeypatch.setattr(tuning, "search", lambda ranking, known, *_, **how: known)
    monkeypatch.setattr(tuning.planner, "rank", lambda *_: SimpleNamespace(considered=3, best=ranked))
    monkeypatch.setattr(tuning, "Space", lambda search_space, inputs: None)
    monkeypatch.setattr(tuning.resource_bounds, "fed_rate", lambda inputs: 1.0)
    monkeypatch.setattr(tuning.Tuner, "_record", lambda self, search_space: None)
    own = TrialResult(Config(), None, 1.0, "measured")
    tuner._searched(SearchSpace((0, 1, 2)), None, own, [own], [])
    assert [each.config for each in tuner._untried] == promised


def test_no_more_workers_are_tried_after_two_failures_and_a_note_says_why(monkeypatch):
    """Twenty-eight trials failed one by one, for the same reason."""
    ledger = ledger_of()
    tuner = object.__new__(tuning.Tuner)
    searched = []

    def try_out(inputs, config, floor, on_chunk):
        if config.num_workers:
            return ledger.failed(config, POOL)
        return TrialResult(config, None, 5.0, "measured")

    def search(ranking, known, space, try_out, record, **how):
        searched.append(space)
        return [*known, *(try_out(config, 0.0, None) for config in (ONE, TWO, FOUR, Config(fetch_threads=4)) if
                          config.num_workers in space)]  # fmt: skip

    tuner._trials = SimpleNamespace(probed=[], ledger=ledger, try_out=try_out, steady_within_seconds=lambda: 1.0)
    tuner.subject = SimpleNamespace(name="loader", waiting_share=1.0)
    tuner.options, tuner.window_seconds = SimpleNamespace(seed=0), 0.1
    tuner.seconds, tuner._begun, tuner.emit = 10.0, 0.0, lambda event: None
    monkeypatch.setattr(tuning, "search", search)
    monkeypatch.setattr(tuning.planner, "rank", lambda *_: SimpleNamespace(considered=4, best=()))
    monkeypatch.setattr(tuning, "Space", lambda search_space, inputs: search_space.num_workers)
    monkeypatch.setattr(tuning.resource_bounds, "fed_rate", lambda inputs: 1.0)
    monkeypatch.setattr(tuning.Tuner, "_record", lambda self, search_space: None)
    own = TrialResult(Config(), None, 1.0, "measured")
    readings = tuner._search(SearchSpace((0, 1, 2, 4)), None, own)
    assert searched == [(0, 1, 2, 4), (0,)]
    assert [trial.config for trial in ledger.trials] == [ONE, TWO]
    assert [reading.config for reading in readings] == [Config(), Config(fetch_threads=4)]
    assert tuner._start.why_not == (
        f"no more workers were tried: two trials with workers failed alike ({POOL.removeprefix('failed: ')})"
    )
