"""Scripts on which a plan could be wrong print what they print without plumb: on a plan, with `@plumb.tuned`, and live.

The plans are not tuned but made by hand, with all that such a script must be guarded against: a tuning would leave most
of it out, as its own tests show. Live loaders change over after their second batch.
"""

from __future__ import annotations

import pytest
from guarded_scripts import PREAMBLE, SCRIPTS, STORED_HERE
from planned import plan_of, run_live, run_on, run_tuning_itself

HEADS = {
    "run": "def tuned(kind):\n    return kind\n",
    "tuned": "from plumb import tuned\n",
    "live": "import plumb\ndef tuned(kind):\n    return kind\n"
    "DataLoader = functools.partial(plumb.DataLoader, tune='live')\n",
}
# All ways read epochs alike: the store without workers is looked at on a plan only.
CASES = [
    # The decorator puts loaders on plans as `plumb run` does: each night.
    pytest.param(way, name, number, marks=[pytest.mark.nightly] * (way == "tuned"), id=f"{way}, {name}, {number}")
    for way in HEADS
    for name, script in SCRIPTS.items()
    for number, config in enumerate(script.configs)
    if way == "run" or config != STORED_HERE
]


def write(folder, name, way):
    (folder / "train.py").write_text(f"{PREAMBLE}{HEADS[way]}{SCRIPTS[name].code}")


@pytest.fixture(scope="module")
def plainly(tmp_path_factory):
    """What each script prints without plumb; each is run once."""
    printed = {}

    def get(name):
        if name not in printed:
            folder = tmp_path_factory.mktemp("plain")
            write(folder, name, "run")
            ran = run_on(None, folder)
            assert ran.code == 0, ran.err
            assert ran.out == (SCRIPTS[name].prints or ran.out)
            printed[name] = ran.out
        return printed[name]

    return get


@pytest.mark.slow
@pytest.mark.parametrize(("way", "name", "number"), CASES)
def test_the_lines_are_those_of_the_plain_script(way, name, number, plainly, tmp_path):
    write(tmp_path, name, way)
    config = SCRIPTS[name].configs[number]
    checked = {"PLUMB_CHECK": ""}
    if way == "run":
        ran = run_on(plan_of(tmp_path, config), tmp_path, **checked)
    elif way == "tuned":
        ran = run_tuning_itself(tmp_path, config, **checked)
    else:
        ran = run_live(tmp_path, config, **checked)
    assert (ran.code, ran.out) == (0, plainly(name)), ran.err
    assert "live: stayed, []" not in ran.err
    assert "plumb itself failed" not in ran.err
    assert "a guard of plumb's own failed" not in ran.err
