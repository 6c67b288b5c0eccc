"""The study: what is tried, in what order, when it stops, and what a later tuning knows."""

import dataclasses
import tempfile

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from plumb.core.config import Config
from plumb.core.plan import Rate, SampleCost, Trial
from plumb.host import Limits
from plumb.model import constraints, planner, resource_bounds
from plumb.model.inputs import (
    CutCost,
    DeferralCost,
    Footprint,
    ModelInputs,
    RemainingCpuShare,
    SearchSpace,
    ThreadsCost,
)
from plumb.tuning.search.ledger import STOPPED, TrialResult, while_running
from plumb.tuning.search.optuna_space import Space
from plumb.tuning.search.study import search
from plumb.tuning.search.study_storage import Record, StudyError, located, storage_at

COST = SampleCost(1e-3, 1e-3, 0.0, 1e-5, 1e3, 1.0)
SITUATION = ModelInputs(
    COST,
    COST,
    Footprint(1e4, 1, 1e7, 1e8, 10),
    Limits(cpus=4),
    cuts=(CutCost("decode", 1e3, RemainingCpuShare(0.9, 0.9), 0.0, 1e-5),),
    deferrals=(DeferralCost(("normalize",), RemainingCpuShare(0.9, 0.9), 1e-6, 1e-6, 0.0),),
    threads=(ThreadsCost(4, "decode", 0.4, 0.9, 1.1, 5e-4, 5e-4),),
    dataset_samples=1e3,
)
STORE = planner.cache_choice(SITUATION.cuts[0], 1e9, 1e3)
FREEDOM = SearchSpace(num_workers=tuple(range(7)), persistent_workers=(False,))
WIDE = SearchSpace(
    num_workers=tuple(range(7)),
    fetch=((1, None), (4, "decode")),
    caches=(None, STORE),
    deferrals=((), ("normalize",)),
    allocator_reuse=(False, True),
    in_order=(True, False),
)
OWN = TrialResult(Config(), Rate(100.0, (99.0, 101.0)), 100.0, "measured")


def _reading(config, rate, outcome="measured"):
    return TrialResult(config, None if rate is None else Rate(rate, (rate * 0.99, rate * 1.01)), rate, outcome)


def _search(rate_of, search_space=FREEDOM, record=None, inputs=SITUATION, known=(OWN,), **given):
    tried = []

    def try_out(config, floor, on_chunk):
        tried.append(config)
        return rate_of(config) if callable(rate_of) else rate_of

    arguments = {"deadline": float("inf"), "worth_until": float("inf"), "seed": 0, "enough": float("inf"), **given}
    ranking = planner.rank(search_space, inputs)
    readings = search(ranking, known, Space(search_space, inputs), try_out, record or Record(None, "test"), **arguments)
    return tried, readings


@settings(max_examples=4)
@given(st.integers(0, 6), st.integers(0, 3))
def test_the_model_s_best_come_first_and_nothing_is_tried_twice(best_workers, seed):
    tried, found = _search(lambda c: _reading(c, 1000.0 - 50 * abs(c.num_workers - best_workers)), WIDE, seed=seed)
    ranking = planner.rank(WIDE, SITUATION)
    assert tried[0] == ranking.best[0].config
    assert len(tried) == len(set(tried))
    assert [reading.config for reading in found] == [OWN.config, *tried]
    assert OWN.config not in tried, "the user's own was measured before"


def test_ways_in_which_the_model_may_be_wrong_are_tried_before_other_numbers_of_workers():
    search_space = SearchSpace(num_workers=tuple(range(7)), caches=(None, STORE), persistent_workers=(False,))
    tried, _ = _search(lambda config: _reading(config, 500.0), search_space)
    assert [config.cache is None for config in tried[:3]] == [False, True, False]


def test_it_stops_once_the_step_is_fed():
    tried, _ = _search(lambda config: _reading(config, 500.0), enough=400.0)
    assert len(tried) == 1


def test_what_the_step_leaves_no_room_for_is_not_looked_for():
    tried, _ = _search(lambda config: _reading(config, 500.0), enough=504.0)
    assert len(tried) <= 3, "the favourites, and nothing for the last percent"


def test_it_stops_at_its_deadline():
    tried, found = _search(lambda config: _reading(config, 500.0), deadline=0.0)
    assert (tried, found) == ([], [OWN])


def test_no_more_time_is_taken_than_a_search_is_worth_once_something_better_is_found():
    rates = iter((None, 90.0, 110.0))
    tried, _ = _search(lambda config: _reading(config, next(rates)), WIDE, worth_until=0.0)
    assert len(tried) == 3, "one that fails and one that disappoints are not the end"
    tried, _ = _search(lambda config: _reading(config, 110.0), WIDE, deadline=0.0)
    assert not tried


def test_what_a_probe_told_already_is_not_all_that_is_looked_at():
    search_space = SearchSpace(num_workers=tuple(range(7)), persistent_workers=(True,))
    probed = [OWN, _reading(Config(4, 2), 500.0)]
    tried, _ = _search(lambda config: _reading(config, 510.0), search_space, known=probed, worth_until=0.0)
    assert len(tried) == 2
    assert while_running(tried[0]) == while_running(Config(4, 2)) != while_running(tried[1])


def test_it_stops_when_the_model_leaves_nothing_to_gain():
    def as_predicted(config):
        loader = resource_bounds.loader_rate(SITUATION, config)
        return _reading(config, resource_bounds.loop_rate(SITUATION, config, loader))

    tried, _ = _search(as_predicted)
    assert len(tried) < 15, "of 19 configurations, those that the model likes less are not worth their time"


def test_what_takes_long_to_start_is_tried_after_what_should_be_as_good_and_starts_sooner():
    """Waits that 40 workers share, or two with 16 threads each: the model can't tell them apart."""
    waits = SampleCost(0.0205, 5e-4, 0.02, 1e-5, 1e3, 1.0)
    inputs = dataclasses.replace(
        SITUATION,
        cost=waits,
        cost_in_worker=waits,
        cuts=(),
        deferrals=(),
        threads=(ThreadsCost(16, None, 1 / 16, 1 / 16, 1.0, 5e-4, 0.0),),
        start_seconds_in_main=0.2,
        samples_per_batch=32.0,
        step_samples_per_second=1400.0,
    )
    search_space = SearchSpace(num_workers=(0, 2, 40), fetch=((1, None), (16, None)), persistent_workers=(True,))
    many = Config(40, 2, True)
    for dear_seconds, is_first in ((float("inf"), True), (4.0, False)):
        # An earlier tuning liked the many best.
        record = Record(None, "test", earlier=(Trial(many, 1300.0, 1300.0, (1290.0, 1310.0), "measured"),))
        tried, _ = _search(
            lambda config: _reading(config, 1000.0), search_space, record, inputs, dear_seconds=dear_seconds
        )
        assert (tried[0].num_workers == 40) == is_first
        if not is_first:
            before = tried[: tried.index(many)] if many in tried else tried
            assert any((config.num_workers, config.fetch_threads) == (2, 16) for config in before)


def test_it_survives_configurations_that_fail():
    _, found = _search(lambda config: _reading(config, None, "failed: OSError"))
    assert all(reading.loop_rate in (0.0, 100.0) for reading in found)


@settings(max_examples=30)
@given(st.data())
def test_every_configuration_has_one_point_and_every_point_one_configuration(data):
    space = Space(WIDE, SITUATION)
    parameters = {
        name: data.draw(
            st.integers(distribution.low, distribution.high)
            if name == "num_workers"
            else st.sampled_from(distribution.choices)
        )
        for name, distribution in space.distributions().items()
    }
    config = space.config(parameters)
    assert space.holds(config)
    assert space.config(space.parameters(config)) == config


def test_what_is_out_of_the_space_has_no_point():
    space = Space(FREEDOM, SITUATION)
    assert not space.holds(Config(40, 2))
    assert not space.holds(Config(2, 16))
    assert not space.holds(Config(2, 2, allocator_reuse=True))


def test_constraints_are_positive_exactly_where_a_limit_is_broken():
    small = ModelInputs(COST, COST, Footprint(1e4, 1, 1e7, 1e8, 10), Limits(cpus=4, memory_bytes=1.25e8))
    space = Space(FREEDOM, small)
    for workers in range(1, 7):
        config = Config(workers, 2)
        assert any(share > 0 for share in space.excess(config)) == bool(constraints.broken_limit(config, small))
    both = Config(2, 2, cache=STORE, deferred=("normalize",))
    assert Space(WIDE, SITUATION).excess(both)[-1] > 0


@pytest.fixture
def folder():
    """A folder for databases, in memory: each parameter is written in a transaction of its own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield path


def test_a_stored_study_tells_what_was_tried_and_why_not(folder):
    url = f"sqlite:///{folder}/study.db"
    record = Record(url, "train:loader", {"host": "here"})
    small = ModelInputs(COST, COST, Footprint(1e4, 1, 1e7, 1e8, 10), Limits(cpus=4, memory_bytes=1.35e8))

    def rate_of(config):
        broken = constraints.broken_limit(config, small)
        if broken:
            return _reading(config, None, f"not tried: {broken}")
        return _reading(config, 100.0 + config.num_workers, STOPPED if config.num_workers == 1 else "measured")

    _search(rate_of, record=record, inputs=small)
    study = optuna.load_study(study_name=record.study_name, storage=url)
    assert study.study_name.startswith("train:loader [")
    assert study.user_attrs["host"] == "here"
    outcomes = {trial.user_attrs["outcome"] for trial in study.trials}
    assert any(outcome.startswith("measured") for outcome in outcomes)
    assert study.best_trial.params["num_workers"] >= 1
    for trial in study.get_trials(states=[TrialState.PRUNED]):
        assert trial.user_attrs["outcome"] == STOPPED or trial.user_attrs["outcome"].startswith("not tried")


def test_a_second_tuning_begins_with_the_first_s_best_and_leaves_out_what_was_bad(folder):
    record = Record(f"sqlite:///{folder}/study.db", "train:loader", {"host": "here"})

    def rate_of(config):
        # Against the model: only three workers are any good.
        return _reading(config, 900.0 if config.num_workers == 3 else 150.0)

    first, readings = _search(rate_of, record=record)
    best = max(readings, key=lambda reading: reading.loop_rate).config
    second, _ = _search(rate_of, record=record)
    assert second[0] == best
    bad = {config for config in first if config.num_workers != 3}
    assert not bad & set(second)


@pytest.mark.slow
def test_evidence_of_another_host_does_not_count(folder):
    url = f"sqlite:///{folder}/study.db"
    first, _ = _search(lambda c: _reading(c, 150.0), record=Record(url, "train:loader", {"host": "here"}))
    second, _ = _search(lambda c: _reading(c, 150.0), record=Record(url, "train:loader", {"host": "there"}))
    assert second[0] == first[0]
    assert len(optuna.get_all_study_names(url)) == 2


def test_two_tunings_may_share_a_study(folder):
    record = Record(f"sqlite:///{folder}/study.db", "train:loader")
    inner = []

    def rate_of(config):
        if not inner:
            inner.append(_search(lambda c: _reading(c, 200.0 + c.num_workers), record=record)[0])
        return _reading(config, 200.0 + config.num_workers)

    tried, _ = _search(rate_of, record=record)
    assert tried
    assert inner[0]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "write it like sqlite:///tuning.db"),
        ("sqlite:////no/such/folder/x.db", "is not a folder"),
        ("foo://user:secret@host/x", "can't be used"),
        ("mssql+nodriver://user:secret@host/x", "can't be used"),
    ],
)
def test_an_address_that_is_no_storage_gives_one_line(url, says):
    with pytest.raises(StudyError, match=says) as caught:
        storage_at(located(url))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_gives_one_line(tmp_path):
    (tmp_path / "notes.db").write_text("not a database, but long enough to be read as one\n" * 100)
    with pytest.raises(StudyError, match=r"not a database") as caught:
        storage_at(located(f"sqlite:///{tmp_path}/notes.db"))
    assert "\n" not in str(caught.value)


def test_a_relative_path_is_the_same_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located("sqlite:///study.db") == f"sqlite:///{tmp_path}/study.db"
    assert located("postgresql://host/db") == "postgresql://host/db"
