"""A sample of the random scripts; `python -m tests.random_scripts` runs as many as there is time for."""

import pytest

from tests.random_scripts.recipe import draw
from tests.random_scripts.running import Wishes, run_seed
from tests.random_scripts.text import source_of
from tests.random_scripts.zygote import Zygote

SAMPLE = (1001, 1002, 1003, 1005, 1008, 1009, 1011)
# On each of these something was wrong once.
FAILED_ONCE = (3, 8, 20, 33, 36, 38, 290, 872)
# The first ends by `sys.exit(0)` before its loop was tuned.
TUNED = (200,)
NIGHTLY = range(1000)


@pytest.fixture(scope="module")
def zygote():
    started = Zygote()
    yield started
    started.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [*FAILED_ONCE, *SAMPLE])
def test_on_a_plan_a_script_does_what_it_does_alone(number, zygote):
    assert run_seed(number, zygote, Wishes(tunes=False)) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", TUNED)
def test_a_script_is_tuned_and_runs_on_its_plan(number, zygote):
    assert run_seed(number, zygote, Wishes()) == []


@pytest.mark.nightly
@pytest.mark.parametrize("number", NIGHTLY)
def test_each_night(number, zygote):
    assert run_seed(number, zygote, Wishes()) == []


def test_a_seed_gives_the_same_script_each_time():
    assert source_of(draw(7)) == source_of(draw(7))
    assert len({source_of(draw(number)) for number in range(200)}) == 200
