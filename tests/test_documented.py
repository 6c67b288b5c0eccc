"""What torch documents for its `DataLoader` holds with plumb's interception in place exactly as without.

The cases are in `documented`, one process per way runs them all. Whole scripts are run where the end of the process, or
the start of others, is the case.
"""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from documented.__main__ import MODULES
from documented.case import CASES, PERSISTENT, TWO, plan_of

from plumb.core import plan
from plumb.core.config import Config

HERE = Path(__file__).parent
# What a loader shows of its arguments: over a dataset that `plumb.tuned` marked, these are the script's own.
SHOWN = frozenset({"workers", "context"})
assert len(MODULES) == len({case.file for case in CASES.values()})


@pytest.fixture(scope="session")
def found(once):
    """What every case returned in every way."""
    return once("documented", _found)


def _found(folder):
    paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "documented"],
        cwd=folder,
        # To make batches a second time shows where samples are counted.
        env={**os.environ, "PYTHONPATH": paths, "PLUMB_CHECK": "0"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", ["unchanged", "changed", "reused", "unseen"])
def test_as_documented(way, name, found):
    plain, under_plumb = found["plain"][name], found[way][name]
    if "skipped" in plain:
        pytest.skip(f"{plain['skipped']} is not installed")
    assert "failed" not in plain, plain["failed"]
    expected = dict(plain)
    if way != "unchanged":
        hidden = SHOWN if way == "unseen" else frozenset()
        expected |= CASES[name].instead
        for key in set(CASES[name].like_torch) - hidden:
            ways = [_without_numbers(each[key]) for each in (plain, found["torch"][name])]
            assert _without_numbers(under_plumb[key]) in ways
            expected[key] = under_plumb[key]
    assert under_plumb == expected


def _without_numbers(value):
    """Which of several workers comes to a sample depends on who read what before."""
    return re.sub("worker process [0-9]", "worker process", repr(value))


NUMBERS = """
import sys
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

class Numbers(Dataset):
    scale = 1

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return index * self.scale
"""

SCRIPTS = {
    "ends with live workers": """
loader = DataLoader(Numbers(), batch_size=4, num_workers=2)
iterator = iter(loader)
print(next(iterator).tolist())
""",
    "fails with live workers": """
loader = DataLoader(Numbers(), batch_size=4, num_workers=2)
for batch in loader:
    raise KeyError(batch.tolist())
""",
    "exits with live workers": """
loader = DataLoader(Numbers(), batch_size=4, num_workers=2)
for epoch in range(2):
    for batch in loader:
        if epoch:
            sys.exit(7)
""",
}

STARTED = """
def mark(worker_id):
    get_worker_info().dataset.scale = 10

if __name__ == "__main__":
    {before}
    loader = DataLoader(Numbers(), batch_size=4, num_workers=1, worker_init_fn=mark{more})
    for epoch in range(2):
        print([batch.tolist() for batch in loader], loader.dataset.scale)
"""
STARTS = {
    "spawn": ("", ", multiprocessing_context='spawn'"),
    "forkserver": ("", ", multiprocessing_context=torch.multiprocessing.get_context('forkserver')"),
    "spawn by default": ("torch.multiprocessing.set_start_method('spawn')", ""),
}


@pytest.fixture
def in_all_ways(tmp_path):
    """Runs a script plainly, on a plan that changes nothing, and on `tuned`; gives each one's exit code and output."""

    def run(text, users, tuned):
        (tmp_path / "train.py").write_text(NUMBERS + text)
        commands = [[sys.executable, "train.py"]]
        for number, config in enumerate((users, tuned)):
            file = tmp_path / f"{number}.plumb.json"
            plan.write(plan_of("train.py", 4, users, config), file)
            commands.append([sys.executable, "-m", "plumb", "run", "--plan", str(file), "train.py"])
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(outcome, commands))

    def outcome(command):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, re.sub(r'File ".*train.py"', 'File "train.py"', done.stderr)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_end_of_a_script(name, in_all_ways):
    plain, unchanged, changed = in_all_ways(SCRIPTS[name], TWO, PERSISTENT)
    assert unchanged == plain
    assert changed == plain
    assert plain[0] == {"ends": 0, "fails": 1, "exits": 7}[name.split()[0]]


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("spawn", marks=pytest.mark.nightly), *list(STARTS)[1:]])
def test_workers_that_are_not_forked(name, in_all_ways):
    before, more = STARTS[name]
    text = STARTED.format(before=before or "pass", more=more)
    plain, unchanged, changed = in_all_ways(text, Config(1, 2), Config(1, 3, persistent_workers=True))
    assert plain[0] == 0, plain[2]
    assert plain[1].count("[[0, 10, 20, 30]") == 2
    assert unchanged == plain
    assert changed == plain
