"""Output that can't be written is one line and an exit code, and no failure of plumb's."""

import os
import subprocess
import sys

import pytest

from plumb.core import plan
from plumb.core.config import Config

FULL = "/dev/full"
WORDS = [
    ["--help"],
    ["--version"],
    ["doctor"],
    ["cache", "list"],
    ["cache", "clear"],
    ["report", "train.plumb.json"],
    ["report", "--json", "train.plumb.json"],
    ["apply", "train.py"],
]

pytestmark = pytest.mark.skipif(not os.path.exists(FULL), reason="needs a file that is always full")


def done(words, folder, **streams):
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, text=True, timeout=120, **{"stderr": subprocess.PIPE, **streams})


@pytest.fixture
def planned(write, tmp_path):
    write("train.py", "print('runs')\n")
    one = plan.Measured(Config(), 1.0, (1.0, 1.0))
    predicted = plan.Prediction(1.0, "step", {}, {"step": 1.0})
    loader = plan.LoaderResult("a", "train.py:1", "c", 1, one, one, predicted)
    plan.write(plan.Plan("train.py", {}, 1.0, 1.0, (loader,)), tmp_path / "train.plumb.json")


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
@pytest.mark.parametrize("python", [[], ["-u"]], ids=["buffered", "unbuffered"])
def test_a_full_disk(words, python, planned, tmp_path, cache_home):
    with open(FULL, "w") as full:
        ran = done([*python, "-m", "plumb", *words], tmp_path, stdout=full)
    assert ran.returncode == 1
    assert ran.stderr == "plumb: the output could not be written (no space left on device)\n"
    assert not (cache_home / "plumb" / "failures").exists()


def test_a_full_standard_error_changes_neither_output_nor_exit_code(planned, tmp_path, cache_home):
    with open(FULL, "w") as full:
        shown = done(["-m", "plumb", "report", "train.plumb.json"], tmp_path, stdout=subprocess.PIPE, stderr=full)
        wrong = done(["-m", "plumb", "report", "nothing.json"], tmp_path, stdout=subprocess.PIPE, stderr=full)
    assert (shown.returncode, wrong.returncode) == (0, 1)
    assert "train.py:1" in shown.stdout
    assert not (cache_home / "plumb" / "failures").exists()


def test_a_reader_that_has_enough_is_no_error(planned, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        ran = done(["-m", "plumb", "report", "--json", "train.plumb.json"], tmp_path, stdout=pipe)
    assert (ran.returncode, ran.stderr) == (1, "")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["tune", "--budget", "2"], ["tune", "--budget", "2", "--json"], ["trace"]])
def test_a_full_disk_after_a_script_was_run(words, write, tmp_path, cache_home):
    write(
        "train.py", "import torch\nfor batch in torch.utils.data.DataLoader(torch.zeros(64, 8), batch_size=8): pass\n"
    )
    with open(FULL, "w") as full:
        ran = done(["-m", "plumb", *words, "train.py"], tmp_path, stdout=full)
    assert ran.returncode == 1
    assert ran.stderr.endswith("plumb: the output could not be written (no space left on device)\n")
    assert not (cache_home / "plumb" / "failures").exists()
    assert (tmp_path / "train.plumb.json").exists() is (words[0] == "tune")
