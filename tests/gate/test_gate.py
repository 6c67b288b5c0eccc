"""Sixteen training programs, built as well-known ones are: each is tuned as it stands, and run on plans.

On a plan, tuned or forced, a program prints the losses that it prints alone and leaves the files that it leaves alone;
a tuning leaves every file as it was. All of it runs each night, a part in CI.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plumb.core import plan
from plumb.report.patch.patch import patch
from tests.parts.forced import WORKERS, forced
from tests.random_scripts.zygote import Zygote, kill_all, processes_in

PROGRAMS = Path(__file__).parent / "programs"
_SCRIPT, _PLAN = "train.py", "train.plumb.json"
_BUDGET_SECONDS, _TIMEOUT_SECONDS = 4, 240


@dataclass(frozen=True)
class Program:
    """What a program needs to be installed, and what of it differs from run to run.

    `varying` are patterns of files that hold times. `sentence` is what a tuning says that can find nothing to tune,
    `refused` what a run says that can't use workers. `streams` are loaders that keep the number of theirs.
    """

    needs: str = "torch"
    varying: tuple[str, ...] = ()
    sentence: str = ""
    refused: str = ""
    streams: tuple[str, ...] = ()


GATE = {
    "yolo": Program(),
    "image_classifier": Program(),
    "lightning_module": Program("lightning", varying=("*.ckpt",)),
    "clip_stream": Program(streams=("loader",)),
    "diffusion": Program("accelerate"),
    "unet": Program(),
    "makemore": Program(),
    "references": Program(),
    "graphs": Program(),
    "recommender": Program(),
    "medical": Program(refused="a random generator"),
    "trainer": Program("transformers", varying=("*.bin", "*/trainer_state.json")),
    "accelerated": Program("accelerate"),
    "semi_supervised": Program(),
    "reinforcement": Program(refused="the loop changes ReplayBuffer.items", streams=("rollout_loader",)),
    "layered": Program(sentence="DataLoader"),
}
# Of the others, those of frameworks take longest to import; tests/test_frameworks.py tunes some of these each time.
_TUNED_IN_CI = ("yolo", "layered")
_ON_A_PLAN_IN_CI = ("yolo", "recommender", "medical", "accelerated", "semi_supervised", "reinforcement", "layered")

_PATCHED_IN_CI = ("semi_supervised",)
# Those whose patch gives workers to loaders that have none.
_WRITTEN = ("recommender", "medical", "semi_supervised", "graphs", "accelerated", "reinforcement")


def _nightly_but(names: tuple[str, ...]) -> list[Any]:
    return [name if name in names else pytest.param(name, marks=pytest.mark.nightly) for name in GATE]


@dataclass(frozen=True)
class Outcome:
    """What a program printed, and the files that it left."""

    code: int | None
    out: str
    err: str
    files: dict[str, bytes]
    workers: int = 0


@pytest.fixture(scope="module")
def zygote():
    started = Zygote("torch._dynamo")
    yield started
    started.close()


@pytest.fixture
def program(tmp_path, request):
    """Puts a program into a folder of its own, as often as it is asked."""
    made = []

    def put(name: str, place: str) -> Path:
        needs = GATE[name].needs
        if importlib.util.find_spec(needs) is None:
            pytest.skip(f"{needs} is not installed")
        folder = tmp_path / place
        folder.mkdir()
        shutil.copy(PROGRAMS / f"{name}.py", folder / _SCRIPT)
        made.append(folder)
        return folder

    yield put
    left = [process for folder in made for process in processes_in(folder)]
    for folder in made:
        kill_all(folder)
    assert not left, "no process is left"


def files_of(folder: Path) -> dict[str, bytes]:
    """The contents of all files that a program has left; the plan is none of them."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name not in (_PLAN, _SCRIPT)}


def assert_same(name: str, plain: Outcome, other: Outcome) -> None:
    """That a program did what it does alone."""
    assert other.code == 0, other.err
    assert other.out == plain.out
    assert sorted(other.files) == sorted(plain.files)
    varying = GATE[name].varying
    fixed = [file for file in plain.files if not any(fnmatch.fnmatch(file, pattern) for pattern in varying)]
    assert fixed
    assert [file for file in fixed if other.files[file] != plain.files[file]] == []
    assert "Traceback" not in other.err


def in_zygote(started: Zygote, way: str, folder: Path, **options: Any) -> Outcome:
    done = started.run(way, _SCRIPT, folder, _TIMEOUT_SECONDS, **options)
    return Outcome(done.code, done.out, done.err, files_of(folder), done.workers)


def command(folder: Path, *words: str) -> Outcome:
    """Runs a command in the program's folder, as its user would."""
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS
    )
    return Outcome(done.returncode, done.stdout, done.stderr, files_of(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", _nightly_but(_ON_A_PLAN_IN_CI))
def test_on_a_plan_with_workers_a_program_does_what_it_does_alone(name, program, zygote, tmp_path):
    plain = in_zygote(zygote, "plain", program(name, "plain"))
    assert plain.code == 0, plain.err
    assert len(plain.out.splitlines()) >= 2

    planned = tmp_path / _PLAN
    config = dataclasses.asdict(WORKERS)
    recorded = in_zygote(zygote, "record", program(name, "recorded"), plan=str(planned), config=config)
    assert_same(name, plain, recorded)
    assert bool(plan.read(planned).loaders) == (not GATE[name].sentence), "every program has its loaders in the plan"

    on_plan = in_zygote(zygote, "run", program(name, "on_plan"), plan=str(planned))
    assert_same(name, plain, on_plan)
    said = [line for line in on_plan.err.splitlines() if line.startswith("plumb: ")]
    refused = GATE[name].refused
    assert len(said) == (1 if refused else 0), said
    assert all(refused in line for line in said), said
    assert refused or GATE[name].sentence or on_plan.workers >= 2, "the plan was used"


@pytest.mark.slow
@pytest.mark.parametrize("name", _nightly_but(_PATCHED_IN_CI))
def test_a_patched_program_still_runs_and_has_the_planned_arguments(name, program, zygote, tmp_path):
    planned = tmp_path / _PLAN
    recorded = in_zygote(
        zygote, "record", program(name, "recorded"), plan=str(planned), config=dataclasses.asdict(WORKERS)
    )
    assert recorded.code == 0, recorded.err

    folder = program(name, "patched")
    source = (folder / _SCRIPT).read_text()
    made = patch(plan.read(planned), folder / _SCRIPT, folder, f"plumb run {_SCRIPT}")
    # A framework's loader is configured by the framework's own settings, which the line names.
    assert all(name == "trainer" and "TrainingArguments(..., dataloader_num" in line for line in made.problems)
    assert {file.path for file in made.files} <= {folder / _SCRIPT}
    for file in made.files:
        file.write()
    ran = in_zygote(zygote, "plain", folder)
    assert ran.code == 0, ran.err
    assert len(ran.out.splitlines()) == len(recorded.out.splitlines())
    if name in _WRITTEN:
        assert (folder / _SCRIPT).read_text() != source
        assert ran.workers >= 2

    again = patch(plan.read(planned), folder / _SCRIPT, folder, f"plumb run {_SCRIPT}")
    assert not again.files, "a second time nothing is left to change"


@pytest.mark.slow
@pytest.mark.parametrize("name", _nightly_but(_TUNED_IN_CI))
def test_a_program_is_tuned_as_published_and_runs_on_its_plan(name, program):
    folder = program(name, "published")
    plain = command(folder, _SCRIPT)
    assert plain.code == 0, plain.err

    tuned = command(folder, "-m", "plumb", "tune", "--budget", str(_BUDGET_SECONDS), _SCRIPT)
    assert {file: tuned.files.get(file) for file in plain.files} == plain.files, "what was there is as it was"
    assert "Traceback" not in tuned.err
    if GATE[name].sentence:
        assert tuned.code == 1
        assert GATE[name].sentence in tuned.err
        assert not (folder / _PLAN).exists()
        return
    assert tuned.code == 0, tuned.err
    found = plan.read(folder / _PLAN)
    assert found.loaders

    again = program(name, "again")
    shutil.copy(folder / _PLAN, again)
    assert_same(name, plain, command(again, "-m", "plumb", "run", _SCRIPT))

    on_workers = program(name, "on_workers")
    entries = [entry if entry.name in GATE[name].streams else forced(entry) for entry in found.loaders]
    plan.write(dataclasses.replace(found, loaders=tuple(entries)), on_workers / _PLAN)
    assert_same(name, plain, command(on_workers, "-m", "plumb", "run", _SCRIPT))
