"""Several ranks under torchrun: one is tuned, the others take part; all use the plan, each on its own samples."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from script_parts import PREAMBLE

from plumb.core import plan
from plumb.core.config import Config
from plumb.core.errors import CommandError
from plumb.core.plan import LoaderResult, Measured, Plan, Prediction
from plumb.host.host_files import HostFiles
from plumb.journal.sharing import Together
from plumb.script.distributed import TuningDoneFlag, forget_launches, launch_of, signal_when_over

TIMEOUT_SECONDS = 120

TRAINING = (
    PREAMBLE
    + """
import torch.distributed as dist
from torch.utils.data import DistributedSampler

dist.init_process_group("gloo")
rank = dist.get_rank()

def averaged_step(x, y):
    train_step(x, y)
    for parameter in model.parameters():
        dist.all_reduce(parameter.data)
        parameter.data /= dist.get_world_size()
"""
)

ENDLESS = """
dataset = Numbers(length=512, seconds=0.004)
sampler = DistributedSampler(dataset)
train_loader = DataLoader(dataset, batch_size=8, sampler=sampler)
for epoch in range(1000):
    sampler.set_epoch(epoch)
    for x, y in train_loader:
        averaged_step(x, y)
    open(f"checkpoint-{rank}", "w").close()
"""

UNEVEN = """
from torch.nn.parallel import DistributedDataParallel
parallel = DistributedDataParallel(model)

def uneven_step(x, y):
    if rank == 1:
        time.sleep(0.04)
    {step}

train_loader = DataLoader(Numbers(length=512, seconds=0.0005), batch_size=8)
for epoch in range(1000):
    for x, y in train_loader:
        uneven_step(x, y)
"""

IN_PARALLEL = "optimizer.zero_grad(); nn.functional.cross_entropy(parallel(x), y).backward(); optimizer.step()"

FAILING = """
class Failing(Numbers):
    def __getitem__(self, index):
        if rank == {rank} and index > {good}:
            raise ValueError("a broken file, on rank %d" % rank)
        return super().__getitem__(index)

dataset = Failing(length=128)
train_loader = DataLoader(dataset, batch_size=8)
for epoch in range(1000):
    for x, y in train_loader:
        averaged_step(x, y)
"""

SHOWING = """
dataset = Numbers(length=50)
sampler = DistributedSampler(dataset, seed=3)
loader = DataLoader(dataset, batch_size=8, sampler=sampler)
for epoch in range(2):
    sampler.set_epoch(epoch)
    seen = []
    for x, y in loader:
        averaged_step(x, y)
        seen.append(x[:, 0].tolist())
    open(f"seen-{rank}-{epoch}", "w").write(repr((loader.num_workers, seen)))
dist.destroy_process_group()
"""


def plan_of(config, site):
    rate = (90.0, 110.0)
    measured = Measured(config, 100.0, rate)
    predicted = Prediction(100.0, "cpu", {"cpu": 1.0})
    loader = LoaderResult("loader", site, "Numbers", 8, Measured(Config(), 100.0, rate), measured, predicted)
    return Plan("train.py", {}, 1.0, 1.0, (loader,))


def launched(folder, *words, ranks=2):
    """What torchrun does with `words`, which begin with a script or with `-m MODULE`."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_one_rank_is_tuned_and_the_others_take_part(write, tmp_path, cache_home):
    write("train.py", TRAINING + ENDLESS)
    ran = launched(tmp_path, "-m", "plumb", "tune", "--budget", 16, "--no-cache", "train.py")
    assert ran.returncode == 0, ran.stderr
    for folder in ("launches", "journals"):
        assert [path.name for path in (cache_home / "plumb" / folder).iterdir()] == []
    assert "rank 1 of 2 takes part while rank 0 tunes" in ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.plumb.json", "train.py"]
    found = plan.read(tmp_path / "train.plumb.json")
    (loader,) = found.loaders
    assert loader.name == "train_loader"
    assert loader.tuned.config.num_workers > 0
    assert any(note.startswith("rank 0 of 2 was tuned") for note in loader.notes)
    assert loader.end_to_end is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    ["averaged_step(x, y)", pytest.param(IN_PARALLEL, marks=pytest.mark.nightly)],
    ids=["by hand", "in the backward pass"],
)
def test_what_a_step_waits_for_other_ranks_is_told_apart(step, write, tmp_path):
    write("train.py", TRAINING + UNEVEN.format(step=step))
    ran = launched(tmp_path, "-m", "plumb", "tune", "--budget", 8, "--no-cache", "train.py")
    assert ran.returncode == 0, ran.stderr
    (loader,) = plan.read(tmp_path / "train.plumb.json").loaders
    shares = loader.end_to_end.baseline_shares
    assert shares.ranks > 0.4
    assert shares.step + shares.ranks + shares.read + shares.compute + shares.transfer == pytest.approx(1)
    assert "other ranks" in ran.stdout


@pytest.mark.slow
def test_every_rank_uses_the_plan_and_keeps_its_part_of_the_samples(write, tmp_path):
    write("train.py", TRAINING + SHOWING)
    assert launched(tmp_path, "train.py").returncode == 0
    plain = {path.name: path.read_text() for path in tmp_path.glob("seen-*")}
    assert len(plain) == 4
    site = TRAINING.count("\n") + SHOWING[: SHOWING.index("loader = ")].count("\n") + 1
    plan.write(plan_of(Config(num_workers=2, prefetch_factor=2), f"train.py:{site}"), tmp_path / "train.plumb.json")
    ran = launched(tmp_path, "-m", "plumb", "run", "train.py")
    assert ran.returncode == 0, ran.stderr
    planned = {path.name: path.read_text() for path in tmp_path.glob("seen-*")}
    assert all(text.startswith("(2, ") for text in planned.values())
    assert {name: text.replace("(2, ", "(0, ", 1) for name, text in planned.items()} == plain


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "good"),
    [(1, 4), pytest.param(0, 4, marks=pytest.mark.nightly), pytest.param(1, 40, marks=pytest.mark.nightly), (0, 40)],
)
def test_a_rank_that_fails_ends_the_others(rank, good, write, tmp_path):
    write("train.py", TRAINING + FAILING.format(rank=rank, good=good))
    ran = launched(tmp_path, "-m", "plumb", "tune", "--budget", 6, "train.py")
    if rank == 0 or good == 4:
        assert ran.returncode != 0
        assert f"a broken file, on rank {rank}" in ran.stdout + ran.stderr
    # What takes part is fed its first batches over and over, and doesn't come to a later one.
    assert (tmp_path / "train.plumb.json").exists() == (rank == 1 and good == 40)


@pytest.mark.parametrize(
    ("environ", "rank"),
    [
        ({}, None),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, 1),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, 0),
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}, None),
        ({"RANK": "1", "WORLD_SIZE": "2"}, None),
        ({"RANK": "one", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, None),
        # Tasks of a scheduler may have nothing to do with each other.
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, None),
    ],
)
def test_which_rank_this_is(environ, rank):
    found = launch_of(HostFiles(environ=environ))
    assert (found.rank if found else None) == rank


def test_several_hosts_are_for_a_plan_of_one():
    environ = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node1"}
    with pytest.raises(CommandError, match="tune on one host"):
        launch_of(HostFiles(environ=environ))


def test_the_end_is_heard_once_it_was_said_and_no_earlier_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file, same, other = (
        launch_of(HostFiles(environ={"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": master})).ended_file
        for rank, master in (("0", "a"), ("1", "a"), ("0", "b"))
    )
    assert file == same != other
    first = TuningDoneFlag(file)
    assert not first.is_set()
    first.set()
    assert first.is_set()
    later, early = TuningDoneFlag(file), TuningDoneFlag(file)
    assert not later.is_set()
    first.clear()
    assert not early.is_set()
    first.set()
    assert early.is_set()
    assert later.is_set()


def launch(monkeypatch, folder, rank="0"):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return launch_of(HostFiles(environ={"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "a"}))


def test_the_signal_stays_until_the_last_rank_is_out(tmp_path, monkeypatch):
    ours = launch(monkeypatch, tmp_path)
    signal = Path(ours.ended_file)
    other = Together(str(signal))
    with signal_when_over(ours):
        other.enter(lambda: pytest.fail("rank 0 is in"))
        follower = TuningDoneFlag(str(signal))
    forget_launches()
    assert follower.is_set()
    other.close()
    forget_launches()
    assert list(signal.parent.iterdir()) == []
    with signal_when_over(ours):
        pass
    assert list(signal.parent.iterdir()) == []
