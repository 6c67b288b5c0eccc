"""Ranks that a script starts by torch.multiprocessing.spawn: the plan reaches them, and a tuning says what to do."""

import pickle
import sys

import pytest
from forked import run_forked

from plumb.core import events
from plumb.script.session import Session
from plumb.script.spawned_ranks import PlannedRank

RANKS = """
import sys, types
import plumb.core
import torch
import torch.multiprocessing as mp
from torch.utils.data import DataLoader

class Handler:
    "Stands for what applies a plan."
    def __init__(self, plan):
        self.plan = plan
    def constructing(self, site, arguments):
        return {**arguments, "batch_size": self.plan}
    def constructed(self, loader, site):
        pass
    def iterating(self, loader, start, plain_loop):
        return start()

sys.modules["plumb.script.plan_handler"] = types.SimpleNamespace(PlanHandler=Handler)
sys.modules["plumb.core.plan"] = plumb.core.plan = types.SimpleNamespace(read=lambda path: len(str(path)))

def rank(number, queue, rows):
    queue.put((number, [batch.tolist() for batch in DataLoader(torch.arange(rows), batch_size=4)]))

from plumb.script import spawned_ranks
started = []
def listener(function, ranks, frame):
    started.append((function, ranks, frame.f_globals["__name__"]))
    return spawned_ranks.PlannedRank(function, "ab")
spawned_ranks.listen(listener)
queue = mp.get_context("fork").SimpleQueue()
module = sys.modules["torch.multiprocessing.spawn"]
for start in (mp.start_processes, module.start_processes):
    start(rank, args=(queue, 3), nprocs=2, start_method="fork")
    assert sorted(queue.get() for _ in range(2)) == [(0, [[0, 1], [2]]), (1, [[0, 1], [2]])]
assert started == [(rank, 2, "forked")] * 2, started
# A spawned rank runs its function through the same function of torch's.
assert "start_processes" in mp.spawn.__code__.co_names
"""


def test_the_plan_of_a_file_is_applied_in_every_rank():
    assert run_forked(RANKS) == ""


def test_a_rank_s_function_can_be_sent_to_it():
    assert pickle.loads(pickle.dumps(PlannedRank(print, "train.plumb.json"))) == PlannedRank(print, "train.plumb.json")


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
