from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumb.host import Limits
from plumb.host.limits import LOWERABLE

amounts = st.floats(0.01, 2**50) | st.integers(1, 2**50) | st.just(math.inf)
some_limits = st.dictionaries(st.sampled_from(LOWERABLE), amounts)


def test_limits_that_a_user_gives_leave_the_others_unknown() -> None:
    limits = Limits(cpus=4, memory_bytes=8 * 2**30)
    assert limits.cpus == 4
    assert math.isinf(limits.shm_bytes)
    assert limits.gpus == ()
    assert limits.sources == {}


@given(some_limits, some_limits)
def test_lowered_never_raises_a_limit(given_limits: dict[str, Any], asked: dict[str, Any]) -> None:
    limits = Limits(**given_limits)
    lowered = limits.lowered(**asked)
    for name in LOWERABLE:
        assert getattr(lowered, name) == min(getattr(limits, name), asked.get(name, math.inf))
    assert lowered.open_files_most <= limits.open_files_most


@given(some_limits, some_limits)
def test_lowering_twice_changes_nothing_more(given_limits: dict[str, Any], asked: dict[str, Any]) -> None:
    once = Limits(**given_limits).lowered(**asked)
    assert once.lowered(**asked) == once


def test_what_was_lowered_says_so_and_the_rest_keeps_its_source() -> None:
    limits = Limits(cpus=4, memory_bytes=100, sources={"cpus": "CPU affinity", "memory_bytes": "the host's memory"})
    assert limits.lowered(cpus=2, memory_bytes=200).sources == {
        "cpus": "asked for",
        "memory_bytes": "the host's memory",
    }
    assert limits.sources["cpus"] == "CPU affinity"


@pytest.mark.parametrize(
    "wrong", [{"cpus": 0}, {"cpus": -1}, {"cpus": math.nan}, {"max_connections": 0}, {"memory_bytes": -1}]
)
def test_what_is_not_a_limit_is_refused_in_one_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a limit must be a number") as caught:
        Limits(**wrong)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="a limit must be a number"):
        Limits(cpus=4).lowered(**wrong)
