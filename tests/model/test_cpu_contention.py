"""What other processes leave of the CPUs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from situations import situations

from plumb.core.config import Config
from plumb.host import Limits
from plumb.model.cpu_contention import CpuCompetition
from plumb.model.resource_bounds import predict

cpus = st.floats(1, 128)
others = st.floats(0, 64)
by_processes = st.floats(0, 1)


@given(cpus, others, by_processes, st.integers(1, 64))
def test_what_is_left_lies_between_what_the_others_do_not_want_and_all(cpus, others, by_processes, most):
    left = CpuCompetition(cpus, others, by_processes).left(np.arange(1, most + 1))
    assert np.all(left >= max(0.0, cpus - others) * (1 - 1e-9))
    assert np.all(left <= cpus * (1 + 1e-9))
    assert np.all(np.diff(left) >= -1e-9 * cpus), "more processes never get less"


@given(cpus, st.integers(1, 64))
def test_where_nobody_else_wants_a_cpu_all_are_left(cpus, processes):
    assert CpuCompetition(cpus, 0.0).left(processes) == pytest.approx(cpus)


def test_two_processes_beside_a_busy_one_get_two_thirds_of_two_cpus_and_four_get_more():
    beside_one = CpuCompetition(2, 1.0)
    assert beside_one.left(2) == pytest.approx(4 / 3)
    assert beside_one.left(4) == pytest.approx(8 / 5)
    in_another_group = replace(beside_one, by_processes=0.0)
    assert in_another_group.left(2) == in_another_group.left(4) == 1.0


@given(cpus, others, by_processes, by_processes, st.floats(1, 64), st.floats(0, 2))
def test_what_was_seen_is_told_again(cpus, others, before, really, processes, error):
    competition = CpuCompetition(cpus, others, before)
    used = replace(competition, by_processes=really).left(processes)
    seen = competition.as_seen(processes, used * error)
    assert 0 <= seen.by_processes <= 1
    if seen is not competition and error == 1:
        assert seen.left(processes) == pytest.approx(used)
    if processes + others <= cpus:
        assert seen is competition, "there was a CPU for everybody"


@given(situations, st.integers(1, 16))
def test_others_that_want_more_never_make_a_loop_faster(inputs, workers):
    config, host = Config(workers, 2), replace(inputs, limits=Limits(16))
    rates = [
        predict(replace(host, competition=CpuCompetition(16, others)), config).samples_per_second
        for others in (0.0, 1.0, 8.0, 30.0)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(predict(replace(host, competition=None), config).samples_per_second)
