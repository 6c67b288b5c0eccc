"""`plumb apply` after a tuning has seen how each loader was made: the call and the origins that were executed."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from traced_scripts import HEAD, TAIL, TRACED

from plumb.core import plan
from plumb.core.config import Config
from plumb.core.plan import Measured
from plumb.report.patch.patch import patch

RUNNER = Path(__file__).with_name("traced_runner.py")
ROOT = Path(__file__).parents[3]


def write_all(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def record_all(scripts):
    """Makes the plans of scripts, each a folder, a name and arguments."""
    done = subprocess.run(
        [sys.executable, str(RUNNER)],
        input=json.dumps(scripts),
        capture_output=True,
        text=True,
        timeout=170,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def folders(once):
    """The folder of each case, with its files and its plan."""
    return once("traced", _folders)


def _folders(folder):
    found = {name: folder / str(number) for number, name in enumerate(TRACED)}
    for name, case in TRACED.items():
        write_all(found[name], case.files)
    record_all([[str(found[name]), "script.py", *case.arguments] for name, case in TRACED.items()])
    return found


def made_by(folder):
    return patch(plan.read(folder / "script.plumb.json"), folder / "script.py", folder, "plumb run script.py")


def with_places(text, files):
    """The text with the places of the lines that it names."""

    def place(match):
        found = [
            f"{Path(name).name}:{number}"
            for name, content in files.items()
            for number, line in enumerate(content.splitlines(), 1)
            if match[1] in line
        ]
        assert len(found) == 1, (match[1], found)
        return found[0]

    return re.sub(r"\{L:(.*?)\}(?=[:,); ]|$)", place, text)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED)
def test_the_place_is_the_one_that_was_executed(name, folders):
    case, made = TRACED[name], made_by(folders[name])
    said = "\n".join((*made.remarks, *made.problems))
    written = "\n".join(file.after.decode() for file in made.files)
    assert not made.problems
    for part in case.said:
        assert with_places(part, case.files) in said
    for part in case.written:
        assert part in written
    for part in case.unnamed:
        assert with_places(part, case.files) not in said
    for line in said.splitlines():
        assert "comes from" in line or line.startswith("persistent_workers=True (") or case.said, line


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("name", TRACED)
def test_a_second_time_and_below_new_lines_the_same_calls_are_meant(name, folders, tmp_path):
    first = made_by(folders[name])
    shutil.copytree(folders[name], tmp_path, dirs_exist_ok=True)
    for file in first.files:
        path = tmp_path / file.path.relative_to(folders[name])
        path.write_bytes(file.after)
    again = made_by(tmp_path)
    assert not again.files
    assert not again.problems

    for file in first.files:
        path = tmp_path / file.path.relative_to(folders[name])
        path.write_bytes(b"# one\n# two\n" + file.before)
    moved = made_by(tmp_path)
    assert [file.after for file in moved.files] == [b"# one\n# two\n" + file.after for file in first.files]


TWO_CALLS = HEAD + "def make():\n    return DataLoader(data, 4)\nother = DataLoader(data, 8)\nloader = make()" + TAIL


@pytest.fixture
def traced(tmp_path):
    """Makes the plan of a script, `s1.py`, in the test's own folder."""

    def make(text, **files):
        write_all(tmp_path, {"s1.py": text, **files})
        record_all([[str(tmp_path), "s1.py"]])

    return make


@pytest.mark.slow
def test_only_the_script_that_was_named_is_written(traced, plumb, tmp_path):
    traced(TWO_CALLS)
    (tmp_path / "s2.py").write_text("# a copy\n" + TWO_CALLS)
    (tmp_path / "s3.py").write_text("print('makes no loader')\n")
    ran = plumb("apply", "s2.py", "--write", "--plan", "s1.plumb.json")
    assert ran.code == 0, ran.err
    assert ran.out == "plumb: wrote s2.py\n"
    assert (tmp_path / "s1.py").read_text() == TWO_CALLS
    assert "    return DataLoader(data, 4, num_workers=2" in (tmp_path / "s2.py").read_text()
    assert "other = DataLoader(data, 8)\n" in (tmp_path / "s2.py").read_text()
    ran = plumb("apply", "s3.py", "--write", "--plan", "s1.plumb.json")
    assert ran.code == 1
    assert "s3.py has no call that makes it" in ran.err
    assert (tmp_path / "s1.py").read_text() == TWO_CALLS


@pytest.mark.slow
def test_another_file_is_shown_before_it_is_written(traced, plumb, tmp_path):
    helper = "from torch.utils.data import DataLoader\ndef make(d):\n    return DataLoader(d, 4)\n"
    traced(HEAD + "from helper import make\nloader = make(data)" + TAIL, **{"helper.py": helper})
    ran = plumb("apply", "s1.py", "--write")
    assert ran.code == 0, ran.err
    assert "+++ b/helper.py" in ran.out
    assert ran.out.splitlines()[-1] == "plumb: wrote helper.py"
    assert "DataLoader(d, 4, num_workers=2" in (tmp_path / "helper.py").read_text()


@pytest.mark.slow
def test_of_identical_calls_the_one_that_ran_is_meant_wherever_they_are_now(traced, tmp_path):
    text = (
        HEAD + "if len(data) > 4:\n    loader = DataLoader(data, 4)\nelse:\n    loader = DataLoader(data, 4)\n" + TAIL
    )
    traced(text)
    for added in ("", "# one\n# two\n"):
        (tmp_path / "s1.py").write_text(added + text)
        made = patch(plan.read(tmp_path / "s1.plumb.json"), tmp_path / "s1.py", tmp_path, "plumb run s1.py")
        expected = text.replace("(data, 4)\nelse", "(data, 4, num_workers=2, persistent_workers=True)\nelse")
        assert [file.after.decode() for file in made.files] == [added + expected]
        (tmp_path / "s1.py").write_text(added + expected)
        made = patch(plan.read(tmp_path / "s1.plumb.json"), tmp_path / "s1.py", tmp_path, "plumb run s1.py")
        assert not made.files
    (tmp_path / "s1.py").write_text(text + "loader = DataLoader(data, 4)\n")
    made = patch(plan.read(tmp_path / "s1.plumb.json"), tmp_path / "s1.py", tmp_path, "plumb run s1.py")
    assert not made.files
    assert "may be any of lines 5, 7, 11" in made.problems[0]


@pytest.mark.slow
def test_an_option_whose_loaders_want_different_values_is_not_to_be_passed(traced, tmp_path):
    options = (
        "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--jobs', type=int, default=4)\n"
        "args = parser.parse_args()\n"
    )
    text = HEAD + options + "loader = DataLoader(data, 4, num_workers=args.jobs)\n"
    traced(text + "val = DataLoader(data[:4], 4, num_workers=args.jobs)\nfor b in val:\n    pass" + TAIL)
    found = plan.read(tmp_path / "s1.plumb.json")
    keeps = [
        dataclasses.replace(each, tuned=each.baseline)
        if each.name == "loader"
        else dataclasses.replace(each, tuned=Measured(Config(1, 2), 2.0, (1.0, 3.0)))
        for each in found.loaders
    ]
    made = patch(dataclasses.replace(found, loaders=tuple(keeps)), tmp_path / "s1.py", tmp_path, "plumb run s1.py")
    assert not made.files
    advice, shared = made.remarks
    assert "val (s1.py:9): num_workers comes from --jobs (default 4), defined at s1.py:6" in advice
    assert "as for loader (s1.py:8), which wants 4: write num_workers=1 in this call" in advice
    assert shared.startswith(("loader and val share --jobs", "val and loader share --jobs"))
    assert "pass --jobs" not in "".join(made.remarks)
