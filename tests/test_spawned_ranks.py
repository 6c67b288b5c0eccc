"""Ranks that a script starts by torch.multiprocessing.spawn: the plan reaches them, and a tuning says what to do."""

import subprocess
import sys

import pytest

from plumb import events
from plumb.session import Session

SCRIPT = """
import sys
import torch, torch.multiprocessing as mp
from torch.utils.data import DataLoader

def rank(number, rows):
    loader = DataLoader(torch.arange(rows), batch_size=4)
    print(number, type(iter(loader)).__module__, [batch.tolist() for batch in loader], flush=True)

if __name__ == "__main__":
    from plumb import spawned_ranks
    spawned_ranks.listen(lambda function, ranks, frame: spawned_ranks.OnPlan(function, sys.argv[1]))
    mp.spawn(rank, args=(8,), nprocs=1)
    mp.start_processes(rank, (4,), nprocs=1, start_method="fork")
"""


def test_the_plan_of_a_file_is_applied_in_every_rank(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(SCRIPT)
    # A stand-in for what applies plans, in every Python that is started here.
    (tmp_path / "sitecustomize.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(filter(None, sys.path))}")
    (tmp_path / "the.plan").write_text("{}")
    command = [sys.executable, "train.py", "the.plan"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "applied the.plan",
        "0 stand_in [[0, 1, 2, 3], [4, 5, 6, 7]]",
        "applied the.plan",
        "0 stand_in [[0, 1, 2, 3]]",
    ]


STAND_IN = """
import sys, types

def applied(file):
    print("applied", file, flush=True)
    return Handler()

class Batches:
    __module__ = "stand_in"
    def __init__(self, batches):
        self.batches = batches
    def __iter__(self):
        return self
    def __next__(self):
        return next(self.batches)

class Handler:
    def constructing(self, site, arguments):
        return arguments
    def constructed(self, loader, site):
        pass
    def iterating(self, loader, start, plain_loop):
        return Batches(start())
    def read_by_dataset(self, loader):
        pass

sys.modules["plumb.runtime.apply"] = types.SimpleNamespace(PlanApplied=applied)
sys.modules["plumb.plan"] = types.SimpleNamespace(read=str)
"""


class Over(BaseException):
    pass


def test_a_tuning_of_such_a_script_points_to_torchrun(monkeypatch):
    told = []
    session = Session(lambda: None, 10.0, told.append, lambda: None)
    monkeypatch.setattr(session, "end_script", lambda: (_ for _ in ()).throw(Over()))
    with pytest.raises(Over):
        session.ranks_started(print, 2, sys._getframe())
    [failed] = told
    assert isinstance(failed, events.Failed)
    assert "starts its ranks itself (2 by torch.multiprocessing, at test_spawned_ranks.py:" in failed.text
    assert "torchrun --nproc-per-node=2 -m plumb tune" in failed.text
