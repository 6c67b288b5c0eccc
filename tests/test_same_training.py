"""A script that is tuned, and then run on a plan with persistent workers, prints the very losses that it prints alone.

The scripts seed all that they draw, and print each epoch's loss to six digits: another sample, order or value shows.
"""

import dataclasses
import subprocess
import sys

import pytest

from plumb.core import plan
from plumb.core.config import Config

TUNED = Config(num_workers=2, prefetch_factor=2, persistent_workers=True)
SCRIPTS = {
    "custom_collate.py": "train_loader",
    "custom_batch_sampler.py": "train_loader",
    "train_and_val.py": "train_loader",
    "dataset_mutated_between_epochs.py": "train_loader",
    "writes_everything.py": "train_loader",
    "package_script": "train_loader",
}


# The script of a package, and two loaders; the others take as long each, and differ in what random scripts cover.
_IN_CI = ("package_script", "train_and_val.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in _IN_CI else pytest.param(name, marks=pytest.mark.nightly) for name in SCRIPTS]
)
def test_the_losses_are_those_of_the_plain_script(name, plumb, script, tmp_path):
    target = ["-m", "package_script.train"] if name == "package_script" else [name]
    script(name)
    plain = subprocess.run([sys.executable, *target], cwd=tmp_path, capture_output=True, text=True, check=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pt")}

    tuned = plumb("tune", "--budget", 1, *target)
    assert tuned.code == 0, tuned.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.pt")} == before, "no checkpoint was touched"

    (path,) = tmp_path.glob("*.plumb.json")
    loader = dataclasses.replace(tuned.loader(SCRIPTS[name]), tuned=plan.Measured(TUNED, 1.0, (1.0, 1.0)))
    others = [other for other in tuned.plan.loaders if other.name != loader.name]
    plan.write(dataclasses.replace(tuned.plan, loaders=(loader, *others)), path)
    ran = plumb("run", *target)
    assert ran.code == 0, ran.err
    losses = [line for line in plain.stdout.splitlines() if "loss=" in line]
    assert len(losses) >= 2
    assert [line for line in ran.out.splitlines() if "loss=" in line] == losses
