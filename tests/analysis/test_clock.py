"""Claims beside the clock: what the figures of `analysis.clock` are made of."""

import dataclasses

import pytest

from analysis import clock
from plumb.core.config import Config
from plumb.core.plan import Claim
from tests.runtime.test_clocked_runs import entry

PLAN = entry(Config(2, 2), Config(), Claim(100.0, 50.0, 150.0, 200.0))
ROW = clock.Row(
    "rows", PLAN, plain=((4.0,) * 5, (4.0,) * 5), run=((8.0, 3.0, 2.0, 2.0, 2.0), (8.0, 3.0, 2.0, 2.0, 9.0))
)


def test_first_epochs_count_in_total_alone():
    assert ROW.claimed == pytest.approx(2.0)
    assert ROW.delivered == pytest.approx(2.0)
    assert ROW.share == pytest.approx(1.0)
    assert ROW.in_total == pytest.approx(40.0 / (8 + 3 + 8 * 2))


def test_a_plan_that_changes_nothing_claims_nothing():
    assert dataclasses.replace(ROW, entry=dataclasses.replace(PLAN, claim=None)).claimed == 1.0


def test_scripts_that_fail_are_named():
    lines = "\n".join(clock.report([ROW, clock.Row("others", None, error="no such module")]))
    assert "for 1 of 2 scripts" in lines
    assert "others: no such module" in lines


@pytest.mark.parametrize("script", clock.SCRIPTS, ids=lambda script: script.name)
def test_each_script_is_there(script):
    assert (clock.ROOT / script.path).is_file()
