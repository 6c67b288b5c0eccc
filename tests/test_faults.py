"""Faults that end other people's trainings, each really caused: the tuning stays inside, says what it met, goes on."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from script_parts import LOOP, PREAMBLE

from plumb.plan import decode

MIB = 2**20
SCRIPT = (
    PREAMBLE + "{dataset}\nloader = DataLoader({made}, batch_size={batch_size}{more})" + LOOP.format(loader="loader")
)


def script(dataset="", made="Numbers(2000, seconds=0.002)", batch_size=8, more=""):
    return SCRIPT.format(dataset=dataset, made=made, batch_size=batch_size, more=more and ", " + more)


@contextmanager
def v1_group(controller: str, name: str, value: int) -> Iterator[Path]:
    """A version 1 control group with one limit, which is gone afterwards; skips where none can be made."""
    top = Path("/sys/fs/cgroup", controller)
    if not (top / "tasks").exists() or not os.access(top / "cgroup.procs", os.W_OK):
        pytest.skip(f"no writable version 1 {controller} hierarchy")
    group = top / f"plumb-fault-{os.getpid()}"
    group.mkdir()
    try:
        (group / name).write_text(str(value))
        yield group
    finally:
        for _ in range(100):
            if not (group / "cgroup.procs").read_text():
                break
            time.sleep(0.05)
        group.rmdir()


def tune(folder, *words, wrapper=(), before=None, timeout=150):
    """`plumb tune` in `folder`, started by the command `wrapper`; gives exit code, standard error and the plan."""
    command = [*wrapper, sys.executable, "-m", "plumb", "tune", *map(str, words), "train.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, preexec_fn=before)
    plan = folder / "train.plumb.json"
    assert "Traceback" not in done.stderr or done.returncode == 1
    return done.returncode, done.stderr, decode(plan.read_bytes()).loaders[0] if plan.exists() else None


def outcomes(loader):
    return {trial.outcome for trial in loader.trials}


def joining(group):
    return lambda: (group / "cgroup.procs").write_text(str(os.getpid()))


HUNGRY = """
class Hungry(Numbers):
    index = None
    def __getitem__(self, index):
        if self.index is None and get_worker_info() is not None and get_worker_info().num_workers >= 2:
            self.index = [bytearray(os.urandom(1) * 2**22) for _ in range(250)]
        return super().__getitem__(index)
"""


def test_workers_that_eat_memory_are_ended_before_the_group_s_limit(write, tmp_path):
    write("train.py", script(HUNGRY, "Hungry(20000, seconds=0.004)"))
    with v1_group("memory", "memory.limit_in_bytes", 2048 * MIB) as group:
        code, err, loader = tune(tmp_path, "--budget", 20, "--no-cache", before=joining(group))
        peak = int((group / "memory.max_usage_in_bytes").read_text())
        kills = (group / "memory.oom_control").read_text()
    assert code == 0, err
    ended = [trial for trial in loader.trials if trial.outcome.startswith("ended: ")]
    assert ended, outcomes(loader)
    assert all("of memory (cgroup v1" in trial.outcome and "left" in trial.outcome for trial in ended)
    assert "oom_kill 0" in kills or "oom_kill" not in kills
    assert peak <= 2048 * MIB
    assert any("as much of memory as a trial that came to its limit" in outcome for outcome in outcomes(loader))
    assert loader.tuned.config.num_workers < 2


STUCK = """
class Stuck(Numbers):
    lock = threading.Lock()
    def __getitem__(self, index):
        if get_worker_info() is not None and get_worker_info().num_workers >= 2 and index > 200:
            self.lock.acquire()
            self.wait_for_ever()
        return super().__getitem__(index)
    def wait_for_ever(self):
        self.lock.acquire()
"""


@pytest.mark.slow
def test_a_worker_stuck_in_a_lock_ends_its_trial_and_says_where(write, tmp_path):
    write("train.py", script(STUCK, "Stuck(4000, seconds=0.004)"))
    code, err, loader = tune(tmp_path, "--budget", 40)
    assert code == 0, err
    stuck = [trial for trial in loader.trials if "stuck" in trial.outcome]
    assert stuck, outcomes(loader)
    assert all("train.py:" in trial.outcome and "in wait_for_ever" in trial.outcome for trial in stuck)
    assert loader.tuned.config.num_workers < 2
