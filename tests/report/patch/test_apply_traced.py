"""`plumb apply` after a tuning has seen how each loader was made: the call and the origins that were executed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from traced_scripts import TRACED

from plumb.core import plan
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
