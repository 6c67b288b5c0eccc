"""Each program of examples/ runs as it is, its first lines say what to type, and plumb tunes those that are for it."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = sorted(file.parent.name for file in EXAMPLES.glob("*/train.py"))
LIBRARIES = {"images": "PIL", "lightning": "lightning", "transformers": "transformers", "tabular": "pandas"}
# Those that use plumb themselves have tests of their own below; the others are plain programs.
WITH_PLUMB = {"decorator", "api", "live"}
FEWER = {"tabular": ["--houses", 500], "remote": ["--objects", 64]}


@pytest.fixture
def copy(tmp_path):
    """Copies an example's files, without its data, into the test's own folder."""

    def into(name):
        pytest.importorskip(LIBRARIES.get(name, "torch"))
        for file in (EXAMPLES / name).glob("*.py"):
            shutil.copy(file, tmp_path)

    return into


@pytest.fixture
def train(tmp_path):
    """Runs `python train.py` as its user would, and gives what it wrote on standard output and standard error."""

    def run(*arguments, **environment):
        command = [sys.executable, "train.py", *map(str, arguments)]
        environment = {**os.environ, **environment}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=170)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


def epochs(out):
    return [int(number) for number in re.findall(r"^epoch (\d+): ", out, re.MULTILINE)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_first_lines_say_what_a_program_shows_and_what_to_type(name):
    text = ast.get_docstring(ast.parse((EXAMPLES / name / "train.py").read_text(encoding="utf-8")))
    assert "\n\nWhat it shows: " in text
    typed = re.findall(r"^    (?:PLUMB=off )?(?:python|plumb tune|plumb run) (\S+)", text, re.MULTILINE)
    assert len(typed) >= 2
    assert set(typed) == {f"examples/{name}/train.py"}


def test_the_readme_links_every_example():
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    missing = [path.name for path in EXAMPLES.iterdir() if path.is_dir() and f"examples/{path.name}/" not in readme]
    assert missing == []


def small_data(name, folder):
    """Write data for the two examples that write much, and return the arguments that name it."""
    if name == "images":
        image = pytest.importorskip("PIL.Image")
        for split in ("train", "val"):
            for kind in ("disc", "star"):
                (folder / split / kind).mkdir(parents=True)
                for number in range(4):
                    image.new("RGB", (320, 240), (60 * number, 40, 90)).save(folder / split / kind / f"{number}.jpg")
        return ["--data", folder]
    folder.write_bytes(bytes(number % 251 if number % 2 == 0 else 1 for number in range(100_000)))
    return ["--data", folder]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        # What these show, other tests run each time.
        name if name in ("text", "tabular") else pytest.param(name, marks=pytest.mark.nightly)
        for name in PROGRAMS
        if name not in WITH_PLUMB
    ],
)
def test_a_plain_program_trains(name, copy, train, tmp_path):
    copy(name)
    data = small_data(name, tmp_path / "data") if name in ("images", "text") else []
    out, _ = train("--epochs", 2, *data, *FEWER.get(name, []))
    assert epochs(out) == [1, 2]


@pytest.mark.slow
def test_the_program_with_the_decorator_tunes_once_and_then_starts_on_its_plan(copy, train, cache_home):
    copy("decorator")
    few = ["--epochs", 2, "--sounds", 400]
    out, said = train(*few)
    assert epochs(out) == [1, 2]
    (line,) = said.splitlines()
    assert "SoundDataset (train.py:" in line
    assert "tuning it once, for about 5 s" in line
    assert len(list((cache_home / "plumb" / "plans").glob("*.json"))) == 1
    again, said = train(*few)
    assert (epochs(again), said) == ([1, 2], "")
    off, said = train(*few, PLUMB="off")
    assert (epochs(off), said) == ([1, 2], "")


@pytest.mark.slow
@pytest.mark.nightly
def test_the_program_that_calls_plumb_prints_its_report_and_trains_on_the_plan(copy, train, plumb):
    copy("api")
    out, said = train("--budget", 3, "--epochs", 2, "--texts", 1_000)
    assert said == ""
    assert epochs(out) == [1, 2]
    assert "What limits it now is" in out or "By the model, " in out
    assert "in torch's own arguments alone: {" in out
    shown = plumb("report", "texts.plumb.json")
    assert shown.code == 0, shown.err
    assert "TextDataset" in shown.out


@pytest.mark.slow
@pytest.mark.nightly
def test_the_program_that_tunes_itself_live_trains_as_without_plumb(copy, train):
    copy("live")
    out, said = train("--epochs", 2, "--images", 600)
    assert (epochs(out), said) == ([1, 2], "")
    off, said = train("--epochs", 2, "--images", 600, PLUMB="off")
    assert (epochs(off), said) == ([1, 2], "")


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("name", ["lightning", "tabular", "remote"])
def test_a_program_is_tuned_in_five_seconds(name, copy, plumb, tmp_path):
    copy(name)
    before = {path.name for path in tmp_path.iterdir()}
    ran = plumb("tune", "--budget", 5, "train.py")
    assert ran.code == 0, ran.err
    assert ran.loader("train_loader").baseline.samples_per_second > 0
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {*before, "train.plumb.json"}


@pytest.mark.slow
def test_the_notebook_runs_and_is_stored_without_outputs(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    (file,) = (EXAMPLES / "notebook").glob("*.ipynb")
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in code if cell.outputs or cell.execution_count is not None] == []
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in code for output in cell.outputs]
    # A library may warn of what Jupyter lacks for its progress bars.
    assert [output for output in shown if output.get("name") == "stderr" and "plumb:" in output.text] == []
    assert sum("text/html" in output.get("data", {}) for output in shown) >= 2, "the plan, and the operators"
    printed = "".join(output.get("text", "") for output in shown)
    assert epochs(printed)
